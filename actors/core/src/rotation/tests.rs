//! The states one by one, what a change of the list may not lose, and both under any sequence of events.

use super::*;
use proptest::prelude::*;

/// What a signed request lives in these tests, ms.
const TTL: u64 = 300_000;
/// A wall clock.
const T: Millis = Millis(1_795_000_000_000);

fn kid(text: &str) -> Kid {
    Kid::parse(text).unwrap()
}

fn listed(text: &str, not_before: Option<Millis>, not_after: Option<Millis>) -> Listed {
    Listed { kid: kid(text), window: Window { not_before, not_after } }
}

fn plain(names: &[&str]) -> Vec<Listed> {
    names.iter().map(|name| listed(name, None, None)).collect()
}

fn begun(list: Vec<Listed>) -> Rotation {
    Rotation::begin(list, TTL, None, T)
}

fn states(rotation: &Rotation) -> Vec<&'static str> {
    rotation.secrets().iter().map(|secret| secret.state().label()).collect()
}

fn phase(rotation: &Rotation) -> Option<&'static str> {
    rotation.phase().map(Phase::label)
}

/// What a change of the list would lose.
fn lost(rotation: &Rotation, new: &[Listed], wall: Millis) -> Vec<String> {
    rotation.review(new, &[], TTL, wall).into_iter().map(|finding| finding.text).collect()
}

fn told(rotation: &Rotation, wall: Millis) -> String {
    rotation.notices(wall).into_iter().map(|notice| notice.text).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_rotation_from_its_first_day_to_its_last() {
    let (old, new) = (kid("old"), kid("new"));
    let mut rotation = begun(plain(&["old"]));
    assert_eq!((states(&rotation), phase(&rotation)), (vec!["pending"], None));
    rotation.matched(&old, T.plus(5));
    rotation.tick(T.plus(5));
    assert_eq!(rotation.changed(), [(old.clone(), State::Active)]);
    assert_eq!(rotation.changed(), [], "told once");

    rotation.reload(plain(&["new", "old"]), &[], TTL, T.plus(1000));
    assert_eq!((states(&rotation), phase(&rotation)), (vec!["pending", "active"], Some("pending")));
    rotation.matched(&new, T.plus(2000));
    rotation.tick(T.plus(2000));
    assert_eq!((states(&rotation), phase(&rotation)), (vec!["active", "dual"], Some("dual")));
    // the old one goes on for a while; from its last request on a whole ttl must be quiet
    rotation.matched(&old, T.plus(9000));
    rotation.tick(T.plus(9000 + TTL - 1));
    assert_eq!(states(&rotation), ["active", "dual"]);
    rotation.tick(T.plus(9000 + TTL));
    assert_eq!(rotation.changed(), [(new.clone(), State::Active), (old.clone(), State::Cutover)]);
    assert_eq!(phase(&rotation), Some("cutover"));
    // a straggler moves nothing back, and is told of
    assert!(!told(&rotation, T.plus(9000 + TTL)).contains("after the cutover"));
    rotation.matched(&old, T.plus(9001 + TTL));
    rotation.tick(T.plus(9001 + TTL));
    assert_eq!(states(&rotation), ["active", "cutover"]);
    assert!(told(&rotation, T.plus(9001 + TTL)).contains("kid old signed again at"), "{rotation:?}");

    let end = T.plus(4 * TTL);
    rotation.reload(
        vec![listed("new", None, None), listed("old", None, Some(end))],
        &[],
        TTL,
        T.plus(3 * TTL),
    );
    assert_eq!(states(&rotation), ["active", "cutover"], "an end is no step back");
    rotation.tick(end.plus(1));
    assert_eq!(rotation.changed(), [(old, State::Retired)]);
    assert_eq!(phase(&rotation), Some("retired"));
    assert!(told(&rotation, end.plus(1)).contains("kid old is not accepted any more"));
    rotation.reload(plain(&["new"]), &[], TTL, end.plus(2));
    assert_eq!((states(&rotation), phase(&rotation)), (vec!["active"], None));
}

#[test]
fn windows_are_inclusive_and_decide_alone() {
    let window = Window { not_before: Some(T), not_after: Some(T.plus(10)) };
    assert!(window.holds(T) && window.holds(T.plus(10)));
    assert!(!window.holds(Millis(T.0 - 1)) && !window.holds(T.plus(11)));
    assert!(Window::ALWAYS.holds(Millis(0)) && Window::ALWAYS.holds(Millis::NEVER));
    // one that begins later is pending until then, whoever signs with it
    let mut rotation = begun(vec![listed("old", None, None), listed("new", Some(T.plus(50)), None)]);
    rotation.matched(&kid("new"), T.plus(1));
    rotation.tick(T.plus(1));
    assert_eq!(states(&rotation), ["pending", "pending"]);
    rotation.tick(T.plus(50));
    assert_eq!(states(&rotation), ["dual", "active"]);
}

#[test]
fn who_is_newer_is_told_by_the_list_then_by_its_ends_or_not_at_all() {
    let unknown = begun(plain(&["a", "b"]));
    assert!(unknown.newest().is_none() && phase(&unknown) == Some("dual"));
    let ends = begun(vec![listed("a", None, Some(T.plus(1))), listed("b", None, None)]);
    assert_eq!(ends.newest().unwrap().listed.kid, kid("b"));
    // what an earlier life saw counts; what it did not know is listed since now
    let known = BTreeMap::from([("a".to_owned(), Seen::default())]);
    let remembered = Rotation::begin(plain(&["a", "b"]), TTL, Some(&known), T);
    assert_eq!(remembered.newest().unwrap().listed.kid, kid("b"));
    assert_eq!(remembered.newest().unwrap().since(), Some(T));
    assert_eq!(remembered.secrets()[0].since(), None, "it does not make up what it does not know");
}

#[test]
fn a_secret_may_not_go_before_its_successor_had_its_time() {
    let mut rotation = begun(plain(&["old"]));
    rotation.reload(plain(&["old", "new"]), &[], TTL, T);
    let early = lost(&rotation, &plain(&["new"]), T.plus(2 * TTL - 1));
    assert!(
        early[0].contains("kid old would be gone now") && early[0].contains("new is listed since"),
        "{early:?}"
    );
    assert_eq!(lost(&rotation, &plain(&["new"]), T.plus(2 * TTL)), [""; 0]);
    // an end in time is as good as staying
    let ending = |end| vec![listed("old", None, Some(end)), listed("new", None, None)];
    assert_eq!(lost(&rotation, &ending(T.plus(2 * TTL)), T.plus(1)), [""; 0]);
    let sooner = lost(&rotation, &ending(T.plus(2 * TTL - 1)), T.plus(1));
    assert!(sooner[0].contains("kid old would end at"), "{sooner:?}");
    // and all at once, old for new, is the change that loses most
    let rotation = begun(plain(&["old"]));
    assert!(lost(&rotation, &plain(&["new"]), T.plus(9 * TTL))[0].contains("would be gone"));
}

#[test]
fn a_secret_may_not_go_while_it_signs() {
    let mut rotation = begun(plain(&["old"]));
    rotation.reload(plain(&["old", "new"]), &[], TTL, T);
    let late = T.plus(10 * TTL);
    rotation.matched(&kid("old"), late);
    let refused = lost(&rotation, &plain(&["new"]), late.plus(TTL - 1));
    assert!(refused[0].contains("it signed a request at"), "{refused:?}");
    assert_eq!(lost(&rotation, &plain(&["new"]), late.plus(TTL)), [""; 0]);
    // the newest may be taken back, unless it signs
    assert_eq!(lost(&rotation, &plain(&["old"]), late), [""; 0]);
    rotation.matched(&kid("new"), late);
    assert!(lost(&rotation, &plain(&["old"]), late)[0].contains("kid new would be gone"));
    // a successor that is taken back was none
    rotation.tick(late);
    assert_eq!(states(&rotation), ["dual", "active"]);
    rotation.reload(plain(&["old"]), &[], TTL, late.plus(TTL));
    assert_eq!(states(&rotation), ["active"]);
}

#[test]
fn another_secret_under_the_same_name_is_the_old_one_gone() {
    let mut rotation = begun(plain(&["only"]));
    rotation.matched(&kid("only"), T);
    let findings = rotation.review(&plain(&["only"]), &[kid("only")], TTL, T.plus(1));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].text.contains("kid only would be gone now"), "{findings:?}");
    rotation.reload(plain(&["only"]), &[kid("only")], TTL, T.plus(1));
    let seen = rotation.secrets()[0].seen;
    assert_eq!(seen, Seen { first_listed: Some(T.plus(1)), ..Seen::default() });
    // what is listed after the clock was set back is newer all the same
    rotation.reload(plain(&["only", "next"]), &[], TTL, Millis(T.0 - 9));
    assert_eq!(rotation.newest().unwrap().listed.kid, kid("next"));
}

#[test]
fn nothing_is_ever_left_without_a_secret() {
    let mut rotation = begun(plain(&["a"]));
    rotation.tick(T.plus(5 * TTL));
    for bad in [vec![], vec![listed("a", Some(T.plus(9 * TTL)), None)], vec![listed("a", None, Some(T))]] {
        assert!(lost(&rotation, &bad, T.plus(5 * TTL))[0].contains("no secret would be accepted"), "{bad:?}");
    }
    let hole = vec![listed("a", None, Some(T.plus(6 * TTL))), listed("b", Some(T.plus(7 * TTL)), None)];
    assert!(lost(&rotation, &hole, T.plus(5 * TTL))[0].contains("no secret would be accepted from"));
    // one that is there already holds up no other change
    let rotation = begun(hole.clone());
    assert_eq!(lost(&rotation, &hole, T), [""; 0]);
    assert!(told(&rotation, T).contains("no secret is accepted from"));
    assert!(told(&rotation, T.plus(6 * TTL + 1)).contains("no secret is accepted now"));
    let last = begun(vec![listed("a", None, Some(T.plus(TTL)))]);
    assert!(told(&last, T).contains("the last secret ends at"));
}

#[test]
fn what_is_over_or_done_is_told() {
    let mut rotation = begun(plain(&["old"]));
    rotation.reload(plain(&["old", "new"]), &[], TTL, T);
    rotation.matched(&kid("new"), T);
    rotation.tick(T.plus(2 * TTL));
    assert!(told(&rotation, T.plus(2 * TTL)).contains("kid old can be taken out of the list"));
    let end = T.plus(TTL);
    let mut short = begun(vec![listed("old", None, Some(end)), listed("new", Some(T), None)]);
    short.matched(&kid("old"), T);
    let text = told(&short, T);
    assert!(text.contains("kid old still signs, and is not accepted after"), "{text}");
    assert!(text.contains("kid old ends before new has been listed for 600 s"), "{text}");
}

/// What can happen to a list of secrets.
#[derive(Debug, Clone)]
enum Op {
    /// The clock goes on, ms.
    Wait(u64),
    /// The clock is set back, ms.
    Back(u64),
    /// A new secret is listed; it begins so much later.
    Add(u64),
    /// One is taken out.
    Remove(usize),
    /// One is given an end, so much later.
    End(usize, u64),
    /// A sender signs by the newest that it knows, or by the one before; the request is so long under way.
    Send { behind: bool, takes: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let moment = prop_oneof![0..2 * TTL, 0..5 * TTL];
    prop_oneof![
        3 => moment.clone().prop_map(Op::Wait),
        1 => moment.clone().prop_map(Op::Back),
        2 => prop_oneof![Just(0), 0..2 * TTL].prop_map(Op::Add),
        2 => (0..4_usize).prop_map(Op::Remove),
        2 => ((0..4_usize), moment).prop_map(|(at, after)| Op::End(at, after)),
        6 => (any::<bool>(), 0..=TTL).prop_map(|(behind, takes)| Op::Send { behind, takes }),
    ]
}

/// A node and a sender. The operator lists a secret, then has the sender use it; the sender needs up to a ttl for that.
struct World {
    rotation: Rotation,
    wall: Millis,
    made: usize,
    /// Requests under way: signed by whom, when they come.
    under_way: Vec<(Kid, Millis)>,
    refused_changes: usize,
}

impl World {
    fn new() -> World {
        let rotation = Rotation::begin(plain(&["k0"]), TTL, None, T);
        World { rotation, wall: T, made: 1, under_way: Vec::new(), refused_changes: 0 }
    }

    fn list(&self) -> Vec<Listed> {
        self.rotation.secrets().iter().map(|secret| secret.listed.clone()).collect()
    }

    /// Puts a list in force if it may be.
    fn change(&mut self, list: Vec<Listed>) {
        if self.rotation.review(&list, &[], TTL, self.wall).is_empty() {
            let before = self.list().iter().any(|listed| listed.window.holds(self.wall));
            self.rotation.reload(list, &[], TTL, self.wall);
            let after = self.list().iter().any(|listed| listed.window.holds(self.wall));
            assert!(after || !before, "no change that is let through leaves nothing accepted");
        } else {
            self.refused_changes += 1;
        }
    }

    /// The secrets that a sender may sign by: the newest that has begun, and while that is younger than a ttl the one
    /// before it.
    fn signs_by(&self, behind: bool) -> Option<Kid> {
        let mut begun: Vec<&Tracked> = self
            .rotation
            .secrets()
            .iter()
            .filter(|secret| secret.since().unwrap_or_default() <= self.wall)
            .collect();
        begun.sort_by_key(|secret| secret.since().unwrap_or_default());
        let newest = begun.pop()?;
        let young = newest.since().is_some_and(|since| self.wall < since.plus(TTL));
        let before = begun.pop().filter(|secret| behind && young && secret.listed.window.holds(self.wall));
        Some(before.unwrap_or(newest).listed.kid.clone())
    }

    /// Delivers what arrives until `until`. None may be refused.
    fn deliver(&mut self, until: Millis) {
        self.under_way.sort_by_key(|(_, at)| *at);
        while self.under_way.first().is_some_and(|(_, at)| *at <= until) {
            let (kid, at) = self.under_way.remove(0);
            let secret = self.list().into_iter().find(|listed| listed.kid == kid);
            assert!(
                secret.is_some_and(|listed| listed.window.holds(at)),
                "{kid} is lost at {at:?}: {:#?}",
                self.rotation
            );
            self.rotation.matched(&kid, at);
            self.rotation.tick(at);
        }
        self.wall = until;
        self.rotation.tick(until);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Wait(ms) => self.deliver(self.wall.plus(ms)),
            Op::Back(_) => {}
            Op::Add(after) => {
                // one change at a time: the next begins when the sender has the last
                let settled = |secret: &Tracked| secret.since().unwrap_or_default().plus(TTL) <= self.wall;
                if self.rotation.secrets().iter().all(settled) && self.made < 12 {
                    let name = format!("k{}", self.made);
                    let start = (after > 0).then(|| self.wall.plus(after));
                    self.made += 1;
                    self.change([self.list(), vec![listed(&name, start, None)]].concat());
                }
            }
            Op::Remove(at) => {
                // taking back the newest is for an operator who has told nobody of it
                let mut list = self.list();
                let newest = self.rotation.newest().map(|newest| newest.listed.kid.clone());
                if at < list.len() && newest.is_some_and(|newest| newest != list[at].kid) {
                    list.remove(at);
                    self.change(list);
                }
            }
            Op::End(at, after) => {
                let mut list = self.list();
                let newest = self.rotation.newest().map(|newest| newest.listed.kid.clone());
                if at < list.len() && newest.is_some_and(|newest| newest != list[at].kid) {
                    list[at].window.not_after = Some(self.wall.plus(after));
                    self.change(list);
                }
            }
            Op::Send { behind, takes } => {
                if let Some(kid) = self.signs_by(behind) {
                    self.under_way.push((kid, self.wall.plus(takes)));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A sender that changes within a ttl, whose requests come within another one, loses none, whatever the operator
    /// tries.
    #[test]
    fn no_change_that_is_let_through_loses_a_request(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        world.deliver(world.wall.plus(TTL));
    }

    /// Neither time, a clock that is set back, nor a signature moves a state back; nor does a new or an ending secret.
    #[test]
    fn states_never_go_back(ops in prop::collection::vec(op(), 1..60)) {
        let mut rotation = begun(plain(&["k0"]));
        let (mut wall, mut made) = (T, 1);
        for op in ops {
            let of = |secret: &Tracked| (secret.listed.kid.clone(), secret.state());
            let before: Vec<(Kid, State)> = rotation.secrets().iter().map(of).collect();
            let newest = rotation.newest().map(|newest| newest.listed.kid.clone());
            let phase = rotation.phase();
            let list: Vec<Listed> = rotation.secrets().iter().map(|secret| secret.listed.clone()).collect();
            match op {
                Op::Wait(ms) => wall = wall.plus(ms),
                Op::Back(ms) => wall = Millis(wall.0 - ms),
                Op::Add(_) if made < 12 => {
                    let name = format!("k{made}");
                    made += 1;
                    rotation.reload([list, vec![listed(&name, None, None)]].concat(), &[], TTL, wall);
                }
                Op::Add(_) => {}
                // only what is over: nothing is taken back by that
                Op::Remove(at) => {
                    let over = |listed: &Listed| listed.window.is_over(wall);
                    if list.get(at).is_some_and(over) && list.len() > 1 {
                        let left = list.iter().enumerate().filter(|(place, _)| *place != at);
                        rotation.reload(left.map(|(_, listed)| listed.clone()).collect(), &[], TTL, wall);
                        if at > 0 {
                            // it was the successor of another
                            continue;
                        }
                    }
                }
                Op::End(at, after) => {
                    // what an operator does to a secret may change its state; what comes then may not
                    let mut list = list;
                    let endless = |listed: &&mut Listed| listed.window.not_after.is_none();
                    if let Some(listed) = list.get_mut(at).filter(endless) {
                        listed.window.not_after = Some(wall.plus(after));
                        rotation.reload(list, &[], TTL, wall);
                    }
                    continue;
                }
                Op::Send { behind, .. } => {
                    let signer = if behind { list.first() } else { list.last() };
                    if let Some(signer) = signer {
                        rotation.matched(&signer.kid, wall);
                    }
                }
            }
            rotation.tick(wall);
            for (kid, was) in before {
                if let Some(now) = rotation.secrets().iter().find(|secret| secret.listed.kid == kid) {
                    prop_assert!(now.state() >= was, "{kid}: {was:?} → {:?}", now.state());
                }
            }
            let is_newest = rotation.newest().map(|newest| newest.listed.kid.clone()) == newest;
            if is_newest && rotation.secrets().len() > 1 {
                prop_assert!(rotation.phase() >= phase, "{phase:?} → {:?}", rotation.phase());
            }
        }
    }
}

/// A generator that the review always refuses, or that never gets anywhere, would prove nothing.
#[test]
fn the_worlds_are_worth_looking_at() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut refused, mut retired, mut listed, mut sent) = (0, 0, 0, 0);
    for _ in 0..200 {
        let ops = prop::collection::vec(op(), 60).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for op in ops {
            sent += usize::from(matches!(op, Op::Send { .. }));
            world.step(op);
        }
        refused += world.refused_changes;
        listed += world.made;
        retired +=
            world.made - world.list().iter().filter(|listed| !listed.window.is_over(world.wall)).count();
    }
    assert!(
        refused > 100 && retired > 100 && listed > 400 && sent > 2000,
        "{refused} {retired} {listed} {sent}"
    );
}
