//! Cases worth spelling out.
