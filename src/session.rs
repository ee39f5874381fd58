//! pending
pub struct Session;
