//! Job tokens that open nothing.
