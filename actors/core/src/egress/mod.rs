//! Delivery of a topic to an https endpoint as a Standard Webhook (SPEC §7 "Egress"): where it may go, how it is
//! signed, what an answer means, when it is tried again, and when an endpoint is left alone.
//!
//! No socket, no resolver, no clock: addresses, answers, times and random numbers come in as arguments.
//! What holds here: an address is judged in its canonical form and refused unless it is public or an operator allowed
//! it; the bytes that are signed are those that were enqueued; a redirect is never followed.

pub mod breaker;
pub mod headers;
pub mod outcome;
pub mod schedule;
pub mod sign;
pub mod ssrf;

pub use breaker::{Admit, Breaker, BreakerRules, BreakerState, DisabledWhy, Saved};
pub use outcome::{Failure, Outcome, Phase};
pub use schedule::{Schedule, retry_after_ms};
pub use sign::{BadKey, Signed, Signer, Signing};
pub use ssrf::{AddressPolicy, Host, Ssrf, Target, UrlPolicy};
