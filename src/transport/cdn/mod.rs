//! Placeholder of the cdn transport.
