//! The rest of [`super::SchemeSpec::compile`]: what is required of a request, and how it is answered.

use super::challenge::{ChallengePlace, GetChallenge};
use super::compile::{Compiler, STATUS};
use super::jwt::{JwtAlgorithm, JwtRules};
use super::spec::{Algorithm, Encoding};
use super::spec_answers::{ChallengeSpec, ConditionSpec, HandshakeSpec, PlaceSpec, ReplySpec};
use super::{AcceptReply, Answer, Condition, HeaderName, KeyUrl, Test, ValuePlace};

impl Compiler<'_> {
    pub(super) fn algorithm_by(&mut self) -> Option<(usize, Vec<(String, Algorithm)>)> {
        let by = self.spec.algorithm_by.clone()?;
        if by.values.is_empty() || self.is_unsigned() {
            self.wrong("algorithm_by.values", "must say which algorithm each value stands for");
        }
        if by
            .values
            .values()
            .any(|algorithm| algorithm.is_asymmetric() != self.spec.algorithm.is_asymmetric())
        {
            self.wrong("algorithm_by.values", "must all be public-key algorithms, or none of them");
        }
        Some((self.json("algorithm_by.json", &by.json), by.values.into_iter().collect()))
    }

    pub(super) fn require(&mut self) -> Vec<(HeaderName, Vec<String>)> {
        let rules = self.spec.require.clone();
        let compiled = rules.iter().filter_map(|rule| {
            let name = self.header("require.header", &rule.header)?;
            Some((name, rule.equals.as_slice().to_vec()))
        });
        compiled.collect()
    }

    fn place(&mut self, key: &str, header: Option<&String>, json: Option<&String>) -> Option<ValuePlace> {
        match (header, json) {
            (Some(header), None) => self.header(&format!("{key}.header"), header).map(ValuePlace::Header),
            (None, Some(json)) => Some(ValuePlace::Json(self.json(&format!("{key}.json"), json))),
            _ => {
                self.wrong(key, "needs exactly one of `header` and `json`");
                None
            }
        }
    }

    pub(super) fn key_url(&mut self) -> Option<KeyUrl> {
        let rule = self.spec.key_url.clone()?;
        let place = self.place("key_url", rule.header.as_ref(), rule.json.as_ref());
        self.hosts("key_url.hosts", &rule.hosts);
        Some(KeyUrl { place: place?, hosts: rule.hosts, suffix: rule.suffix })
    }

    fn hosts(&mut self, key: &str, hosts: &[String]) {
        let label = |text: &str| text == "*" || text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let good = |host: &String| {
            host.split('.').all(|part| !part.is_empty() && label(part))
                && host.split('.').rev().take(2).filter(|part| *part != "*").count() == 2
        };
        if hosts.is_empty() || !hosts.iter().all(good) {
            self.wrong(
                key,
                "must be hosts such as `*.example.com`; `*` is one label, and not of the last two",
            );
        }
    }

    pub(super) fn principal(&mut self) -> Option<ValuePlace> {
        let PlaceSpec { header, json, claim, query } = self.spec.principal.clone()?;
        if claim.is_some() && self.spec.algorithm == Algorithm::Jwt && header.is_none() && json.is_none() {
            return None; // of the token's rules
        }
        if claim.is_some() || query.is_some() {
            self.wrong("principal", "needs exactly one of `header` and `json` (`claim` with a token)");
        }
        self.place("principal", header.as_ref(), json.as_ref())
    }

    pub(super) fn jwt(&mut self) -> Option<JwtRules> {
        let Some(rules) = self.spec.jwt.clone() else {
            if self.spec.algorithm == Algorithm::Jwt {
                self.wrong("jwt", "is missing; name the algorithms: `jwt = { algorithms = [\"RS256\"] }`");
            }
            return None;
        };
        if self.spec.algorithm != Algorithm::Jwt {
            self.wrong("jwt", "needs `algorithm = \"jwt\"`");
        }
        let mut algorithms = Vec::new();
        for name in &rules.algorithms {
            match JwtAlgorithm::parse(name) {
                Some(algorithm) => algorithms.push((name.clone(), algorithm)),
                None => self.wrong("jwt.algorithms", "may hold HS256, HS384, HS512, RS256 and ES256"),
            }
        }
        let shared =
            algorithms.iter().filter(|(_, algorithm)| matches!(algorithm, JwtAlgorithm::Hs(_))).count();
        if algorithms.is_empty() || (shared > 0 && shared < algorithms.len()) {
            let text = "must be of one kind: HS… with a shared secret, or RS256 and ES256 with a public key";
            self.wrong("jwt.algorithms", text);
        }
        Some(JwtRules {
            algorithms,
            issuers: rules.issuers,
            audience: rules.audience,
            url_hash: rules.url_hash,
            body_hash: rules.body_hash.map(|name| (name, rules.body_hash_encoding.unwrap_or(Encoding::Hex))),
            timeless: rules.timeless,
            is_true: rules.is_true,
            principal: self.spec.principal.as_ref().and_then(|place| place.claim.clone()),
        })
    }

    pub(super) fn reply(&mut self, path: &str, reply: Option<&ReplySpec>, status: u16) -> AcceptReply {
        let Some(reply) = reply else { return AcceptReply { status, body: None } };
        let status = reply.status.unwrap_or(status);
        if !(200..=299).contains(&status) {
            self.wrong(format!("{path}.status"), "must be 200 to 299");
        }
        let empty = reply.body.as_ref().is_none_or(String::is_empty);
        if matches!(status, 204 | 205) {
            if !empty {
                self.wrong(format!("{path}.body"), format!("a {status} has no body; remove it"));
            }
            return AcceptReply { status, body: Some((None, String::new())) };
        }
        if empty && reply.content_type.is_some() {
            self.wrong(format!("{path}.content_type"), "needs a `body`");
        }
        if reply.content_type.as_ref().is_some_and(|text| !printable(text)) {
            self.wrong(format!("{path}.content_type"), "must be printable ASCII");
        }
        let body = reply.body.clone().map(|body| {
            let plain = || "text/plain; charset=utf-8".to_owned();
            let content_type = reply.content_type.clone().unwrap_or_else(plain);
            ((!body.is_empty()).then_some(content_type), body)
        });
        AcceptReply { status, body }
    }

    fn conditions(&mut self, path: &str, when: &[ConditionSpec]) -> Vec<Condition> {
        if when.is_empty() {
            self.wrong(format!("{path}.when"), "is empty; name at least one value of the body");
        }
        let mut conditions = Vec::with_capacity(when.len());
        for condition in when {
            let place = self.json(&format!("{path}.when.json"), &condition.json);
            let test = match (&condition.equals, condition.absent) {
                (None, false) => Test::Present,
                (None, true) => Test::Absent,
                (Some(literal), absent) => {
                    if absent {
                        self.wrong(format!("{path}.when"), "has both `equals` and `absent`; choose one");
                    }
                    Test::Equals(literal.clone())
                }
            };
            conditions.push(Condition { path: place, test });
        }
        conditions
    }

    pub(super) fn accept_when(&mut self) -> Vec<(Vec<Condition>, AcceptReply)> {
        let rules = self.spec.accept_when.clone();
        let compiled = rules.iter().map(|rule| {
            let reply = self.reply("accept_when.reply", Some(&rule.reply), STATUS);
            (self.conditions("accept_when", &rule.when), reply)
        });
        compiled.collect()
    }

    fn mac(&mut self, path: &str, encoding: Option<Encoding>) -> Option<(Algorithm, Encoding)> {
        let encoding = encoding?;
        if self.is_unsigned() || self.spec.algorithm.is_asymmetric() {
            self.wrong(format!("{path}.mac"), "needs an algorithm with a shared secret");
        }
        Some((self.spec.algorithm, encoding))
    }

    pub(super) fn handshakes(&mut self) -> Vec<(Vec<Condition>, Answer)> {
        let rules = self.spec.handshake.clone();
        let compiled = rules.iter().map(|HandshakeSpec { when, echo, mac, reply, confirm }| {
            let fixed = self.reply("handshake.reply", reply.as_ref(), 200);
            let answer = match (echo, confirm) {
                (Some(path), None) => Answer::Echo {
                    place: self.json("handshake.echo", path),
                    mac: self.mac("handshake", *mac),
                    reply: fixed,
                },
                (None, Some(confirm)) => {
                    self.hosts("handshake.confirm.hosts", &confirm.hosts);
                    let place = self.json("handshake.confirm.json", &confirm.json);
                    Answer::Confirm { place, hosts: confirm.hosts.clone(), reply: fixed }
                }
                (None, None) if reply.is_some() => Answer::Fixed(fixed),
                _ => {
                    self.wrong(
                        "handshake",
                        "needs `reply`, `echo` or `confirm`, and not the last two at once",
                    );
                    Answer::Fixed(fixed)
                }
            };
            (self.conditions("handshake", when), answer)
        });
        compiled.collect()
    }

    pub(super) fn challenges(&mut self) -> Vec<GetChallenge> {
        let rules = self.spec.challenge.clone();
        let compiled = rules.iter().filter_map(|ChallengeSpec { query, token, from, mac, reply }| {
            let from = match (&from.query, &from.header, &from.json, &from.claim) {
                (Some(name), None, None, None) => Some(ChallengePlace::Query(name.clone())),
                (None, Some(name), None, None) => {
                    self.header("challenge.from.header", name).map(ChallengePlace::Header)
                }
                _ => {
                    self.wrong("challenge.from", "needs exactly one of `query` and `header`");
                    None
                }
            };
            Some(GetChallenge {
                query: query.clone().into_iter().collect(),
                token: token.clone(),
                from: from?,
                mac: self.mac("challenge", *mac),
                reply: self.reply("challenge.reply", reply.as_ref(), 200),
            })
        });
        compiled.collect()
    }
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}
