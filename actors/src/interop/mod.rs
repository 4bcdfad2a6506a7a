//! The interop service's actors: one verifier a provider. What a signature means is `ron_core::scheme`'s; what
//! becomes of a verified event is the caller's.

pub mod verifier;

pub use verifier::{Judged, Verifier, VerifierArgs, VerifierHandle, VerifierMsg};
