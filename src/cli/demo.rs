use super::{Failure, args::DemoArgs};
pub(super) fn run(_: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::usage("x"))
}
