//! All tests in one binary, so that the crate is linked once.

mod readers;
mod shared;
