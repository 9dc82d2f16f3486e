//! Placeholder of the bt transport.
