//! The allocator of every binary of the suite.
//!
//! A request makes some three hundred small allocations, and whatever thread happens to be free gives them back. glibc's malloc serves
//! that for an eighth more processor time of the whole answer, and keeps what one thread has freed from the others:
//! a process under load grows in steps. jemalloc gives back what is not used after some seconds.
//!
//! It is configured by the environment variable `_RJEM_MALLOC_CONF`, as jemalloc's manual says under TUNING.

// It does not build where there is no POSIX.
#[cfg(unix)]
#[global_allocator]
static JEMALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
