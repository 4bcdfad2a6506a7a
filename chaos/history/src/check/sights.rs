//! What a look shows: nothing that is gone, and no dead letter that should not be one.

use super::Found;
use crate::Rule;
use crate::index::Index;
use crate::life::{Life, Sight};
use crate::record::{How, Letter, State};

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    for life in index.lives.values() {
        for sight in &life.sights {
            check_whole(index, life, sight, found);
            check_gone(index, life, sight, found);
            if let Some(letter) = sight.seen.and_then(|seen| seen.letter.as_ref()) {
                check_letter(index, life, sight, letter, found);
            }
            if sight.state == State::Dlq {
                check_dead(index, life, sight, found);
            }
        }
    }
}

fn check_whole(index: &Index<'_>, life: &Life<'_>, sight: &Sight<'_>, found: &mut Found<'_>) {
    let Some(seen) = sight.seen else { return };
    let sending = seen.content.and_then(|content| index.sendings.get(&content));
    let whole = sending.is_some_and(|one| one.queue == life.queue && one.item.hash == seen.hash);
    found.ensure(whole, Rule::I2, sight.end.idx, || format!("{} is not as it was sent: {seen:?}", life.id));
    let dead = seen.letter.is_some() == (sight.state == State::Dlq);
    found.ensure(dead, Rule::I5, sight.end.idx, || format!("{}: {:?} shows {seen:?}", life.id, sight.state));
}

fn check_gone(index: &Index<'_>, life: &Life<'_>, sight: &Sight<'_>, found: &mut Found<'_>) {
    let gone = life.gone(index).filter(|gone| {
        gone.idx < sight.begin.idx
            && !index.undone(gone.idx, sight.end.idx)
            && sight.era >= index.restores.len()
    });
    found.ensure(gone.is_none(), Rule::I3, sight.end.idx, || {
        format!("{}: seen in {:?} after it was gone at {gone:?}", life.id, sight.state)
    });
}

/// I5: dead for a reason that there is.
fn check_letter(
    index: &Index<'_>,
    life: &Life<'_>,
    sight: &Sight<'_>,
    letter: &Letter,
    found: &mut Found<'_>,
) {
    let (id, idx) = (life.id, sight.end.idx);
    let past = &index.settings[&life.queue];
    let revived = life.may_be_revived(index, 0, idx);
    match letter.reason.as_str() {
        "max_attempts" => {
            let least = past.least(|s| s.max_attempts, life.from, idx);
            found.ensure(sight.attempt >= least, Rule::I5, idx, || {
                format!("{id}: dead after attempt {} of {least}", sight.attempt)
            });
        }
        "max_deliveries" => {
            let least = past.least(|s| s.max_deliveries, life.from, idx);
            let delivery = sight.delivery.unwrap_or(u64::MAX);
            found.ensure(delivery >= least, Rule::I5, idx, || {
                format!("{id}: dead after delivery {delivery} of {least}")
            });
        }
        reason => {
            let rejected = life.tries.iter().any(|one| {
                matches!(one.how, How::Reject { reason: given } if given == reason)
                    && one.may_act()
                    && one.begin.idx < idx
            });
            found.ensure(rejected, Rule::I5, idx, || format!("{id}: dead for {reason:?}, which nobody said"));
        }
    }
    let newest = life.gots.iter().filter(|got| got.era == sight.era && got.end.idx < sight.begin.idx);
    let Some(newest) = newest.max_by_key(|got| got.seen.delivery) else { return };
    let exact = sight.delivery == Some(newest.seen.delivery);
    if exact && !revived && !life.may_be_given_back(newest, idx) {
        let floor = life.floor(newest, idx);
        found.ensure(letter.at >= floor, Rule::I5, idx, || {
            format!("{id}: dead at {}, and leased until {floor}", letter.at)
        });
    }
}

/// I5: dead stays dead, unless it is brought back.
fn check_dead(index: &Index<'_>, life: &Life<'_>, sight: &Sight<'_>, found: &mut Found<'_>) {
    for got in life.gots.iter().filter(|got| got.era == sight.era) {
        let later = got.end.idx > sight.end.idx && got.leased().0 > sight.end.ms;
        let after = got.begin.idx > sight.end.idx || later;
        let excused = !after || life.may_be_revived(index, sight.begin.idx, got.end.idx);
        found.ensure(excused, Rule::I5, got.end.idx, || {
            format!("{}: delivered, and a dead letter since record {}", life.id, sight.end.idx)
        });
        let newer = sight.delivery.is_some_and(|delivery| got.seen.delivery > delivery);
        let known = got.end.idx < sight.begin.idx;
        found.ensure(!(newer && known), Rule::I5, sight.end.idx, || {
            format!(
                "{}: dead after delivery {:?}, and {} was seen",
                life.id, sight.delivery, got.seen.delivery
            )
        });
    }
}
