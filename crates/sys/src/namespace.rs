//! Entering, leaving and describing namespaces.
