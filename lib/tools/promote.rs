//! Performs the actions that the machine asks for.
