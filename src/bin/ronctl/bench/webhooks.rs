//! Webhooks of a provider, verified, stored and fsynced before their 202, against sends to a route of the same process
//! that does all that a send needs but the store: what proof and durability cost together.

use super::Bench;
use super::load::Work;
use super::report::Comparison;
use crate::ambient;
use crate::failure::{Failure, failed};
use data_encoding::HEXLOWER;

impl Bench {
    /// `runs` rounds of webhooks, storeless sends and bare 204s, interleaved.
    pub(super) async fn webhooks(&self, runs: u8) -> Result<(), Failure> {
        let (address, sender) =
            self.site.webhooks.clone().ok_or_else(|| failed("bench webhooks needs --spawn"))?;
        let mut comparison = Comparison::new(Work::Webhook.name());
        for round in 1..=runs {
            for work in [Work::Webhook, Work::Discard, Work::Empty] {
                let mut load = self.load(1);
                if work == Work::Webhook {
                    load.address.clone_from(&address);
                    load.sender = Some(sender.clone());
                    load.prefix = HEXLOWER.encode(&ambient::random::<6>()?);
                }
                let label = format!("{} {round}/{runs}", work.name());
                comparison.add(work.name(), self.measure(work, &load, &label).await?)?;
            }
        }
        self.present(&comparison)
    }
}
