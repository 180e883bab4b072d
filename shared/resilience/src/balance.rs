//! Which backend of a pool to ask first.
//!
//! Four ideas, each a file, none of which knows what a backend is:
//!
//! * [`PeakEwma`] tells what one backend would cost the next call: its latency times the calls that it has under way.
//! * [`power_of_two_choices`] orders backends by that, with enough chance in it that routers which know nothing of each other
//!   do not all run to the same one.
//! * [`affinity_order`] keeps a key to one backend as long as that is not overloaded, so that what the backend remembers of
//!   the key, such as the KV cache of a prompt, is used again.
//! * [`FailureShare`] tells how much of what it was asked a backend failed of late, and [`put_off`] asks it less for that.
//!
//! Which backends take part at all is not decided here: that is their breakers' knowledge.

mod affinity;
mod choice;
mod failure_share;
mod peak_ewma;

pub use affinity::{Candidate, LOAD_FACTOR, affinity_order, stable_hash};
pub use choice::power_of_two_choices;
pub use failure_share::{FailureShare, put_off};
pub use peak_ewma::{InFlight, PeakEwma, PeakEwmaConfig};
