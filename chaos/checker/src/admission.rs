//! What a public listener must bear: bodies that explode ([`bombs`]), and connections that never get anywhere
//! ([`slow`]).

pub mod bombs;
pub mod slow;
