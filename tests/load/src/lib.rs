//! Load generator and benchmark harness.
//!
//! One run measures the same chat by five ways: the simulated upstream itself, nginx in front of it, the suite as
//! processes, the suite in one process, and a trivial gRPC server that shows what the client of gRPC costs by itself.
//! Everything runs on this machine's loopback and ends with the run. See `tests/load/README.md` for what each number
//! means.

mod cached;
mod caller;
mod chain;
pub mod cli;
mod drive;
mod echo;
mod error;
mod machine;
mod nginx;
pub mod plan;
mod report;
mod run;
mod streams;
mod summary;
mod table;
mod usage;
mod ways;

pub use error::LoadError;
pub use report::Report;
pub use run::run;
