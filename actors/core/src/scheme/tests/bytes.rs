//! Every vector that is accepted, with each byte of it changed in turn: what the signature covers cannot change, and
//! what it does not cover changes nothing that is decided on.

use super::super::vectors::Expected;
use super::*;
use std::collections::BTreeMap;

/// Each text that differs from `text` in one bit of one byte and is still text.
fn flips(text: &str, bits: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for place in 0..text.len() {
        for bit in bits {
            let mut bytes = text.as_bytes().to_vec();
            bytes[place] ^= 1 << bit;
            all.extend(String::from_utf8(bytes));
        }
    }
    all
}

/// The headers whose bytes are covered: the signature's own, its time, its id and what its base names.
fn covered_headers(scheme: &Scheme, vector: &Vector) -> Vec<String> {
    let mut covered: Vec<String> = Vec::new();
    let mut add = |name: &HeaderName| covered.push(name.lower.clone());
    if let Some(FieldRule { place: FieldPlace::Header(name), signed: true, .. }) = &scheme.id {
        add(name);
    }
    if let Some((TimePlace::Header(name), _)) = &scheme.timestamp {
        add(name);
    }
    for part in scheme.parts() {
        if let Part::Header(name) = part {
            add(name);
        }
    }
    let sent = vector.headers.keys().filter(|name| {
        let name = name.to_ascii_lowercase();
        scheme.signs_in(&name) || covered.contains(&name)
    });
    sent.cloned().collect()
}

/// Whether a text holds more than one signature: a spoilt one beside the good one is no reason to refuse.
fn holds_several(vector: &Vector, scheme: &Scheme, text: &str) -> bool {
    let headers = vector.headers.keys().filter(|name| scheme.signs_in(&name.to_ascii_lowercase())).count();
    let listed = match &scheme.shape {
        Shape::List { separator, assign, .. } => text.split(separator).filter(|entry| {
            let key = entry.split(assign.as_str()).next().unwrap_or_default();
            scheme.versions.iter().any(|version| version.key == key)
        }),
        Shape::Single { .. } => return headers > 1,
    };
    headers > 1 || listed.count() > 1
}

#[test]
fn every_bit_of_every_signed_byte_counts() {
    let all = catalogue();
    let (mut flipped, mut lists) = (BTreeMap::<String, usize>::new(), 0);
    for vector in vectors().iter().filter(|vector| vector.expected == Expected::Accept) {
        let (name, scheme) = scheme_of(vector, &all);
        // Public keys are dear: a bit a byte.
        let bits = if scheme.algorithm.is_asymmetric() { &[0][..] } else { &[0, 3, 6][..] };
        let mut reject = |changed: &Vector, what: &str| {
            let outcome = changed.run(&scheme).unwrap();
            assert_eq!(outcome.got, Expected::Reject, "{}: {what}: {changed:?}", vector.id);
            *flipped.entry(name.clone()).or_default() += 1;
        };
        if scheme.coverage == Coverage::Full && vector.body_b64.is_none() {
            for body in flips(&vector.body, bits) {
                reject(&Vector { body, ..vector.clone() }, "body");
            }
        }
        for header in covered_headers(&scheme, vector) {
            let text = &vector.headers[&header];
            if holds_several(vector, &scheme, text) {
                lists += 1;
                continue;
            }
            for value in flips(text, bits) {
                let mut headers = vector.headers.clone();
                headers.insert(header.clone(), value);
                reject(&Vector { headers, ..vector.clone() }, &header);
            }
        }
        if scheme.parts().any(|part| *part == Part::Url(template::UrlForm::Whole)) {
            let url = vector.url.clone().unwrap();
            for value in flips(&url, &[0]).into_iter().filter(|value| !value.contains('#')) {
                reject(&Vector { url: Some(value), ..vector.clone() }, "url");
            }
        }
    }
    let in_body = ["adyen_payments", "aws_sns", "mailgun"];
    for (name, _) in all.iter().filter(|(name, _)| !in_body.contains(&name.as_str())) {
        let count = flipped.get(name).copied().unwrap_or_default();
        assert!(count >= 20, "only {count} bytes of {name} were changed");
    }
    assert!(lists >= 4, "{lists}");
}

/// The values of a body that are signed one by one, each changed.
#[test]
fn every_signed_value_of_a_body_counts() {
    let all = catalogue();
    for name in ["adyen_payments", "aws_sns", "mailgun"] {
        let mut changed = 0;
        for vector in vectors().iter().filter(|vector| vector.expected == Expected::Accept) {
            let (of, scheme) = scheme_of(vector, &all);
            if of != name {
                continue;
            }
            let found = body::read(vector.body.as_bytes(), &scheme.paths, None);
            let mut signed: Vec<usize> = scheme.parts().flat_map(Part::places).collect();
            if let SignaturePlace::Json(place) = scheme.signature {
                signed.push(place);
            }
            for place in signed {
                let Some(text) = found[place].text() else { continue };
                for value in flips(&text, &[0]) {
                    let mut json: serde_json::Value = serde_json::from_str(&vector.body).unwrap();
                    scheme.paths[place].set(&mut json, value.into()).unwrap();
                    let body = json.to_string();
                    let outcome = Vector { body, ..vector.clone() }.run(&scheme).unwrap();
                    assert_eq!(outcome.got, Expected::Reject, "{}: {text}", vector.id);
                    changed += 1;
                }
            }
        }
        assert!(changed > 40, "{name}: {changed}");
    }
}

/// What accepted vectors decide on, from a provider with the vector's own secrets.
fn decided(
    vector: &Vector,
    scheme: &Scheme,
    headers: &HeaderList,
    query: &str,
    body: &[u8],
) -> Option<Accepted> {
    let secrets = vector.secrets().iter().enumerate();
    let secrets =
        secrets.map(|(n, text)| scheme.parse_secret(kid(&format!("k{n}")), text).unwrap()).collect();
    let url = vector.url.as_deref().unwrap_or("https://node.example/x");
    let known = Known {
        public_url: Some(url.split('?').next().unwrap().to_owned()),
        principals: vec![
            vector.email.clone().unwrap_or_default(),
            "arn:aws:sns:us-west-2:123456789012:MyTopic".to_owned(),
            "arn:aws:sns:us-west-2:123456789012:T".to_owned(),
        ],
        audience: Some(vector.audience.clone().unwrap_or_default()),
    };
    let name = ProviderName::parse("sample").unwrap();
    let spec = ProviderSpec { known, ..ProviderSpec::new(name, scheme.clone(), secrets) };
    let spec = ProviderSpec { tolerance_s: vector.tolerance_s, ..spec };
    let rules = ProviderRules::new(spec).unwrap();
    let now = Millis(vector.now_unix.unwrap_or(1_700_000_000) * 1000);
    match rules.judge(&InboundRequest { method: "POST", query, headers, body }, now) {
        Verdict::Accept(accepted) => Some(*accepted),
        Verdict::Handshake(_) => None,
        Verdict::Refuse(rejection) => panic!("{}: {rejection:?}", vector.id),
    }
}

/// PROOFS: any header, query or unsigned byte of an accepted request may change, and dedup key and answer stay.
#[test]
fn no_unsigned_byte_decides() {
    let all = catalogue();
    let mut seen = std::collections::BTreeSet::new();
    for vector in vectors().iter().filter(|vector| vector.expected == Expected::Accept) {
        let (name, scheme) = scheme_of(vector, &all);
        if vector.method.as_deref().is_some_and(|method| method != "POST") {
            continue;
        }
        let body = vector.body_bytes().unwrap();
        let query = vector.url.as_deref().and_then(|url| Some(url.split_once('?')?.1)).unwrap_or_default();
        let plain = vector.header_list();
        let Some(first) = decided(vector, &scheme, &plain, query, &body) else { continue };
        seen.insert(name.clone());
        let same = |other: Option<Accepted>, what: &str| {
            let other = other.unwrap_or_else(|| panic!("{}: {what}", vector.id));
            assert_eq!((&other.dedup, &other.kid), (&first.dedup, &first.kid), "{}: {what}", vector.id);
            for (field, then) in [(&first.id, &other.id), (&first.event_type, &other.event_type)] {
                let signed = field.as_ref().filter(|field| field.signed);
                assert!(signed.is_none() || then.as_ref() == signed, "{}: {what}", vector.id);
            }
        };
        // Headers that are not covered: new ones, and the unsigned id and type.
        let mut more = plain.clone();
        for (header, value) in
            [("Content-Type", "text/plain"), ("X-Forwarded-Host", "evil"), ("Host", "evil")]
        {
            if !vector.headers.contains_key(header) {
                more.push(header, value);
            }
        }
        for rule in [&scheme.id, &scheme.event_type].into_iter().flatten() {
            if let FieldPlace::Header(header) = &rule.place
                && !rule.signed
                && !vector.headers.keys().any(|have| have.eq_ignore_ascii_case(&header.lower))
            {
                more.push(&header.shown, "forged");
            }
        }
        same(decided(vector, &scheme, &more, query, &body), "headers");
        // The query, where it is not signed.
        let signs_url = scheme.needs_public_url() || scheme.parts().any(|part| *part == Part::QuerySorted);
        if !signs_url {
            same(decided(vector, &scheme, &plain, "id=forged&type=forged", &body), "query");
        }
        // The body's values that are not signed.
        if scheme.coverage == Coverage::Partial
            && let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&body)
            && json.is_object()
            && scheme.query_hash.is_none()
            && !scheme.parts().any(|part| *part == Part::BodyCrc32)
        {
            json["unsigned"] = "forged".into();
            same(decided(vector, &scheme, &plain, query, json.to_string().as_bytes()), "unsigned member");
        }
    }
    assert!(seen.len() >= 60, "{} schemes: {seen:?}", seen.len());
}
