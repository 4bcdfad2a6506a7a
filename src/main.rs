//! `ron-node`, the program. Everything is in `process`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ron_node::process::main(ron_node::node::medium_of)
}
