//! One shard and one provider's verifier killed past their budgets: they alone are quarantined, say so, and come
//! back when they are released.

use super::house::{House, TENANT};
use super::ledger::{Balance, Ledger};
use super::load::{self, LONG_LEASE_MS, Numbers, Witness};
use super::until;
use anyhow::{Context, Result, anyhow, bail};
use http::Method;
use ron_actors::kernel::child::ChildStatus;
use ron_actors::kernel::supervisor::SupervisorRef;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(60);
const VICTIM: &str = "victim";
/// The sender whose verifier is killed; those before it belong to bystanders.
const SENDER: usize = 2;

/// What the drill found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kills until the quarantine: of the shard, and of the verifier.
    pub kills: [u64; 2],
    /// What was answered against what came out.
    pub balance: Balance,
    /// Calls of bystanders: how many, and their median, p99 and worst latency in ms.
    pub bystanders: (usize, f64, f64, f64),
    /// Everything that must not be. Empty = the drill passed.
    pub faults: Vec<String>,
}

/// Runs the drill in `dir`.
///
/// # Errors
/// If the node does not answer as it should in between; faults that it survives are in the report.
pub async fn run(dir: &Path) -> Result<Report> {
    let house = Arc::new(House::boot(dir, SENDER + 1).await?);
    let (ledger, witness) = (Arc::new(Ledger::default()), Arc::new(Witness::default()));
    let numbers = Arc::new(Numbers::default());
    let mut faults = Vec::new();
    let bystanders: Vec<_> = (0..4)
        .map(|n| {
            let (house, ledger, witness) = (house.clone(), ledger.clone(), witness.clone());
            let (numbers, topic) = (numbers.clone(), format!("by-{n}"));
            tokio::spawn(load::bystander(house, ledger, witness, numbers, topic, (n < 2).then_some(n)))
        })
        .collect();
    let drill = Drill { house: &house, ledger: &ledger, numbers: &numbers };
    let kills = drill.quarantine(&mut faults).await;
    witness.stop();
    for bystander in bystanders {
        if let Err(error) = bystander.await.context("a bystander panicked")? {
            faults.push(format!("a bystander: {error:#}"));
        }
    }
    let kills = kills?;
    let mut client = house.mailbox();
    for topic in ["by-0", "by-1", "by-2", "by-3", "wh-00", "wh-01", "wh-02", VICTIM] {
        load::drain(&mut client, &ledger, topic).await?;
    }
    drop(client);
    let balance = ledger.balance();
    if !balance.holds() {
        faults.push(format!("lost: {:?}; wrong: {:?}", balance.lost, balance.broken));
    }
    faults.extend(witness.refusals().into_iter().map(|what| format!("a bystander was refused: {what}")));
    let [latencies, _] = witness.latencies();
    Arc::try_unwrap(house).map_err(|_| anyhow!("the node is still in use"))?.shut().await?;
    Ok(Report { kills, balance, bystanders: latencies, faults })
}

struct Drill<'h> {
    house: &'h Arc<House>,
    ledger: &'h Ledger,
    numbers: &'h Numbers,
}

impl Drill<'_> {
    /// Kills both victims past their budgets, looks at the node, and releases them.
    async fn quarantine(&self, faults: &mut Vec<String>) -> Result<[u64; 2]> {
        let mut client = self.house.mailbox();
        for _ in 0..3 {
            load::send(&mut client, self.ledger, VICTIM, self.numbers.next()).await?;
        }
        let (held, _) = load::recv(&mut client, self.ledger, VICTIM, 1, LONG_LEASE_MS).await?;
        let (shards, verifiers) = (&self.house.node.tree().shards, self.house.node.verifiers());
        let (shard, verifier) = (format!("shard:{TENANT}/{VICTIM}"), "verifier:wh-02".to_owned());
        let kills = [past_budget(shards, &shard).await?, past_budget(verifiers, &verifier).await?];
        if kills != [6, 6] {
            faults.push(format!("quarantined after {kills:?} kills, not after the sixth"));
        }
        self.only_the_victims(faults).await?;
        if !shards.release(&shard).await || !verifiers.release(&verifier).await {
            faults.push("a victim could not be released".into());
        }
        // back with all it had: the lease from before its death still holds
        load::send(&mut client, self.ledger, VICTIM, self.numbers.next()).await?;
        load::ack(&mut client, self.ledger, VICTIM, &held).await?;
        load::webhook(self.house, self.ledger, SENDER, self.numbers.next()).await?;
        until("readyz without the victims", WITHIN, || async {
            let ready = self.house.admin("mailbox_admin").get("/readyz").await.ok()?;
            ready.json["quarantined"].is_null().then_some(())
        })
        .await?;
        Ok(kills)
    }

    async fn only_the_victims(&self, faults: &mut Vec<String>) -> Result<()> {
        for admin in ["mailbox_admin", "interop_admin"] {
            let expected = json!([format!("{TENANT}/{VICTIM}"), "wh-02"]);
            let listed = until("the victims in readyz", WITHIN, || async {
                let ready = self.house.admin(admin).get("/readyz").await.ok()?;
                (ready.json["quarantined"] == expected).then_some(ready)
            });
            let ready = listed.await?;
            if ready.status != 200 {
                faults.push(format!("{admin}/readyz says {} {}", ready.status, ready.json));
            }
        }
        let mut client = self.house.mailbox();
        for (call, body) in
            [("enqueue", json!("x")), ("recv", json!({})), ("ack", json!({"receipts": ["x"]}))]
        {
            let answer = client.post(&format!("/v1/{TENANT}/{VICTIM}/{call}"), &body).await?;
            let malformed = call == "ack" && answer.status == 200; // a receipt that is none needs no shard
            if (answer.status, answer.reason()) != (503, "DOWNSTREAM_UNAVAILABLE") && !malformed {
                faults.push(format!("{call} on the quarantined topic: {} {}", answer.status, answer.json));
            }
        }
        let sender = &self.house.senders[SENDER];
        let (headers, body) = sender.event(self.numbers.next(), self.house.clock.as_ref())?;
        let path = format!("/webhooks/{}", sender.name);
        let answer = self.house.interop().call(Method::POST, &path, &headers, body).await?;
        if (answer.status, answer.reason()) != (503, "DOWNSTREAM_UNAVAILABLE") {
            faults.push(format!("a webhook of the quarantined provider: {} {}", answer.status, answer.json));
        }
        let mut children = self.house.node.tree().shards.children().await;
        children.extend(self.house.node.verifiers().children().await);
        let ill: Vec<String> = children
            .iter()
            .filter(|info| info.status != ChildStatus::Quarantined && info.crashes > 0)
            .map(|info| info.name.to_string())
            .collect();
        if !ill.is_empty() {
            faults.push(format!("others crashed, too: {ill:?}"));
        }
        Ok(())
    }
}

/// Kills a child whenever it is up, until it no longer comes up; how often that was.
async fn past_budget(supervisor: &SupervisorRef, child: &str) -> Result<u64> {
    let status = async || {
        let children = supervisor.children().await;
        children.into_iter().find(|info| *info.name == *child).map(|info| info.status)
    };
    let mut kills = 0;
    loop {
        let settled = until("the victim up or quarantined", WITHIN, || async {
            status().await.filter(|status| matches!(status, ChildStatus::Up | ChildStatus::Quarantined))
        });
        if settled.await? == ChildStatus::Quarantined {
            return Ok(kills);
        }
        if kills > 20 {
            bail!("{child} was killed {kills} times and is still not quarantined");
        }
        if supervisor.kill_child(child).await {
            kills += 1;
        }
        until("the end of the victim", WITHIN, || async {
            status().await.filter(|status| !matches!(status, ChildStatus::Up))
        })
        .await?;
    }
}
