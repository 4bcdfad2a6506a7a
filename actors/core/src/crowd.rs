//! Who gives way when there is no more room for strangers: whoever has been there longest without getting
//! anywhere.
//!
//! Refusing the newcomer would let a few hundred slow connections keep everybody else out for as long as
//! their deadline allows. An honest sender is through in milliseconds, so among those that wait the oldest is
//! the least likely to be one. Who is being worked for is never chosen, and neither is who came just now.

use crate::time::Millis;
use std::collections::BTreeMap;

/// Who came less than this ago does not give way, ms: of many who come at once the first are served, and none
/// is chased out by those behind him just before he is done. Short, since whoever fills all places within
/// this time keeps others out.
pub const MIN_AGE_MS: u64 = 50;

/// A place in a [`Crowd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// Those who are there, in the order in which they came.
#[derive(Debug)]
pub struct Crowd<T> {
    next: u64,
    waiting: BTreeMap<Place, Member<T>>,
    busy: BTreeMap<Place, Member<T>>,
}

#[derive(Debug)]
struct Member<T> {
    since: Millis,
    works: u32,
    value: T,
}

impl<T> Default for Crowd<T> {
    fn default() -> Crowd<T> {
        Crowd { next: 0, waiting: BTreeMap::new(), busy: BTreeMap::new() }
    }
}

impl<T> Crowd<T> {
    /// Somebody comes, and waits.
    pub fn join(&mut self, now: Millis, value: T) -> Place {
        let place = Place(self.next);
        self.next += 1;
        self.waiting.insert(place, Member { since: now, works: 0, value });
        place
    }

    /// He goes, if he is there still.
    pub fn leave(&mut self, place: Place) {
        if self.waiting.remove(&place).is_none() {
            self.busy.remove(&place);
        }
    }

    /// Work is begun for him: he does not give way until as many are ended.
    pub fn begin(&mut self, place: Place) {
        if let Some(member) = self.busy.get_mut(&place) {
            member.works += 1;
        } else if let Some(member) = self.waiting.remove(&place) {
            self.busy.insert(place, Member { works: 1, ..member });
        }
    }

    /// Work for him has ended, or goes on without him being owed anything.
    pub fn end(&mut self, place: Place) {
        let Some(member) = self.busy.get_mut(&place) else { return };
        member.works -= 1;
        if member.works == 0
            && let Some(member) = self.busy.remove(&place)
        {
            self.waiting.insert(place, member);
        }
    }

    /// Takes out the one who waits and came first, unless even he came less than [`MIN_AGE_MS`] ago.
    pub fn give_way(&mut self, now: Millis) -> Option<T> {
        self.give_way_of(now, |_| true)
    }

    /// The same among those of whom `whom` holds.
    pub fn give_way_of(&mut self, now: Millis, whom: impl Fn(&T) -> bool) -> Option<T> {
        let old = self.waiting.iter().take_while(|(_, member)| now.since(member.since) >= MIN_AGE_MS);
        let place = old.filter(|(_, member)| whom(&member.value)).map(|(place, _)| *place).next()?;
        self.waiting.remove(&place).map(|member| member.value)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.busy.len()
    }

    /// Whether nobody is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER: Millis = Millis(10_000);

    #[test]
    fn the_oldest_who_waits_gives_way() {
        let mut crowd = Crowd::default();
        let [a, b, _c] = ['a', 'b', 'c'].map(|who| crowd.join(Millis(0), who));
        crowd.begin(a);
        crowd.begin(a);
        assert_eq!(crowd.give_way(LATER), Some('b'));
        crowd.end(a);
        assert_eq!(crowd.give_way(LATER), Some('c'), "a is worked for still");
        assert_eq!(crowd.give_way(LATER), None);
        crowd.end(a);
        assert_eq!(crowd.give_way(LATER), Some('a'));
        for place in [a, b] {
            crowd.begin(place);
            crowd.end(place);
            crowd.leave(place);
        }
        assert!(crowd.is_empty(), "who gave way does not come back");
    }

    #[test]
    fn who_just_came_does_not() {
        let mut crowd = Crowd::default();
        crowd.join(Millis(1_000), ());
        assert_eq!(crowd.give_way(Millis(1_000 + MIN_AGE_MS - 1)), None);
        assert_eq!(crowd.give_way(Millis(1_000 + MIN_AGE_MS)), Some(()));
    }

    #[test]
    fn only_those_meant_do() {
        let mut crowd = Crowd::default();
        for n in 0..4 {
            crowd.join(Millis(n), n);
        }
        assert_eq!(crowd.give_way_of(LATER, |n| n % 2 == 1), Some(1));
        assert_eq!(crowd.give_way_of(LATER, |n| n % 2 == 1), Some(3));
        assert_eq!(crowd.give_way_of(LATER, |n| n % 2 == 1), None);
        assert_eq!(crowd.give_way(LATER), Some(0));
        crowd.join(LATER, 5);
        assert_eq!(crowd.give_way_of(LATER, |n| n % 2 == 1), None, "he just came");
    }

    #[derive(Debug, Clone)]
    enum Act {
        Join,
        Leave(usize),
        Begin(usize),
        End(usize),
        GiveWay,
        Pass(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let any_one = 0usize..40;
        let act = prop_oneof![
            3 => Just(Act::Join),
            1 => any_one.clone().prop_map(Act::Leave),
            2 => any_one.clone().prop_map(Act::Begin),
            2 => any_one.prop_map(Act::End),
            2 => Just(Act::GiveWay),
            2 => (0u64..400).prop_map(Act::Pass),
        ];
        prop::collection::vec(act, 0..200)
    }

    proptest! {
        /// Against a list that is searched.
        #[test]
        fn it_is_the_first_of_a_list(acts in acts()) {
            let (mut crowd, mut now) = (Crowd::default(), Millis(0));
            let mut list: Vec<(usize, Millis, u32)> = Vec::new();
            let mut places = Vec::new();
            for act in acts {
                match act {
                    Act::Join => {
                        list.push((places.len(), now, 0));
                        places.push(crowd.join(now, places.len()));
                    }
                    Act::Leave(n) if n < places.len() => {
                        crowd.leave(places[n]);
                        list.retain(|(who, ..)| *who != n);
                    }
                    Act::Begin(n) if n < places.len() => {
                        crowd.begin(places[n]);
                        list.iter_mut().filter(|(who, ..)| *who == n).for_each(|(.., works)| *works += 1);
                    }
                    Act::End(n) if n < places.len() => {
                        crowd.end(places[n]);
                        let member = list.iter_mut().filter(|(who, ..)| *who == n);
                        member.for_each(|(.., works)| *works = works.saturating_sub(1));
                    }
                    Act::GiveWay => {
                        let waits = |(_, _, works): &&(usize, Millis, u32)| *works == 0;
                        let oldest = list.iter().find(waits).copied();
                        let oldest = oldest.filter(|(_, since, _)| now.0 - since.0 >= MIN_AGE_MS);
                        let who = oldest.map(|(who, ..)| who);
                        prop_assert_eq!(crowd.give_way(now), who);
                        list.retain(|(other, ..)| Some(*other) != who);
                    }
                    Act::Pass(ms) => now = Millis(now.0 + ms),
                    Act::Leave(_) | Act::Begin(_) | Act::End(_) => {}
                }
                prop_assert_eq!(crowd.len(), list.len());
                prop_assert_eq!(crowd.is_empty(), list.is_empty());
            }
        }
    }
}
