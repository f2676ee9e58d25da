//! Logs that real servers write.
