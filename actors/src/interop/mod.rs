//! The interop service's actors: one verifier a provider, one egress an endpoint. What a signature means is
//! `ron_core::scheme`'s, what an answer means `ron_core::egress`'s; what becomes of a verified event is the caller's.

pub mod egress;
pub mod verifier;

pub use verifier::{Case, Judged, Verifier, VerifierArgs, VerifierHandle, VerifierMsg};
