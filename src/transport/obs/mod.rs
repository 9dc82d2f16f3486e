//! Placeholder of the obs transport.
