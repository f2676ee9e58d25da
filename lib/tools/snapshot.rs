//! Sources and repository into snapshot evidence.
