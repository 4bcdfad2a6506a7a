//! x
use crate::failure::Failure;
use crate::output::Output;
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {}
pub(crate) async fn run(_args: DemoArgs, _out: Output) -> Result<(), Failure> { Ok(()) }
