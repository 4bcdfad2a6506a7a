//! Every problem is told with its line; the first rule that fits decides; quotas fall back key by key.

use super::*;

fn parse(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn problems(text: &str) -> Vec<String> {
    Policy::parse(text).expect_err("no problem was found").iter().map(ToString::to_string).collect()
}

fn judge(policy: &Policy, op: Op, queue: &str, provider: Option<&str>) -> Result<Allowed, String> {
    let (tenant, topic) = queue.split_once('/').unwrap();
    let tenant = Tenant::parse(tenant).unwrap();
    let topic = Topic::parse(topic).ok();
    let request = Request { op, tenant: &tenant, topic: topic.as_ref(), provider };
    policy.judge(&request).map_err(|refusal| {
        assert_eq!(refusal.reason, Reason::PolicyBlocked);
        refusal.text.into_owned()
    })
}

#[test]
fn every_problem_of_a_wrong_file_is_told_at_once() {
    let told = problems(include_str!("../../../../tests/fixtures/bad-policy.toml"));
    let expected = [
        "1: version: must be a whole number, 1 or more",
        "2: defualt: unknown key (nearest known: default)",
        "5: rule.1.tenants: unknown key (nearest known: tenant)",
        "6: rule.1.topic: must be a name, or the start of one followed by *",
        "7: rule.1.op: must be of enqueue, recv, ack, nack, peek, stat, admin, put, get, introspect",
        "8: rule.1.action: must be \"allow\" or \"deny\"",
        "11: rule.2.max_body_bytes: must be a size as \"64KiB\" or \"1MiB\", or a number of bytes",
        "12: rule.2.reason: must be a text of 1 to 256 printable characters",
        "16: rule.3.max_body_bytes: belongs to a rule that allows: what is over it is denied",
        "20: tenant.acme.rps: must be a whole number, 1 to 1000000000000",
        "21: tenant.acme.max_dept: unknown key (nearest known: max_depth)",
        "22: tenant.acme.weight: must be a whole number, 1 to 1000",
        "24: tenant.ACME: tenant must match [a-z0-9][a-z0-9-]{0,62}",
        "28: preset.calm.burst: unknown key (nearest known: burst_times)",
        "29: preset.calm.burst_times: must be a whole number, 1 to 100",
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_is_no_toml_or_too_long_is_told_with_its_line_and_no_value() {
    let told = problems("version = 1\nsecret = s3cr3t\n");
    assert!(told[0].starts_with("2: is not TOML: "), "{told:?}");
    assert!(!told.concat().contains("s3cr3t"), "{told:?}");
    assert_eq!(problems(""), ["1: version: is missing (a number of your own, 1 or more)"]);
    assert!(problems(&"#".repeat(TEXT_BYTES_MAX + 1))[0].contains("is longer"));
    let many = format!("version = 1\n{}", "[[rule]]\naction = \"allow\"\n".repeat(RULES_MAX + 1));
    assert!(problems(&many)[0].contains("more than 1000"));
    for wrong in
        ["rule = 1", "tenant = 1", "[tenant]\nacme = 1", "[[rule]]", "[[rule]]\nop = []\naction=\"deny\""]
    {
        assert_eq!(problems(&format!("version = 1\n{wrong}")).len(), 1, "{wrong}");
    }
}

#[test]
fn the_shipped_example_is_good_and_does_what_it_says() {
    let policy = parse(include_str!("../../../../config/policy.toml"));
    assert_eq!((policy.revision(), policy.default_action(), policy.rules()), (1, Action::Deny, 3));
    let denied = judge(&policy, Op::Admin, "acme/payments.eu", None).unwrap_err();
    assert_eq!(denied, "payments are administered by ticket");
    let allowed = judge(&policy, Op::Enqueue, "acme/payments.eu", None).unwrap();
    assert_eq!(allowed.body_bytes_max, Some(256 << 10));
    assert!(allowed.check_bytes(256 << 10).is_ok());
    assert_eq!(allowed.check_bytes((256 << 10) + 1).unwrap_err().reason, Reason::PolicyBlocked);
    assert!(judge(&policy, Op::Extend, "acme/x", None).is_ok(), "extend goes with recv");
    assert!(judge(&policy, Op::Enqueue, "other/x", None).is_err());
    assert_eq!(judge(&policy, Op::Enqueue, "other/x", Some("stripe-eu")), Ok(Allowed::default()));
    assert!(judge(&policy, Op::Enqueue, "other/x", Some("gitlab")).is_err());
    let acme = policy.quotas(&Tenant::parse("acme").unwrap());
    assert_eq!((acme.rps, acme.burst, acme.weight, acme.max_topics), (UNLIMITED, 1_000, 100, 1_000));
    assert_eq!(acme.request_rate(), None);
    let other = policy.quotas(&Tenant::parse("other").unwrap());
    assert_eq!((other.rps, other.bytes_per_s, other.weight), (500, 16 << 20, 10));
    assert!(policy.preset("launch-day").is_some() && policy.preset("calm").is_none());
}

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = parse(
        "version = 7\ndefault = \"allow\"\n\
         [[rule]]\ntopic = \"orders.*\"\nop = \"enqueue\"\naction = \"allow\"\n\
         [[rule]]\ntenant = [\"acme\", \"b*\"]\nop = \"enqueue\"\naction = \"deny\"\n",
    );
    assert!(judge(&policy, Op::Enqueue, "acme/orders.eu", None).is_ok());
    assert_eq!(judge(&policy, Op::Enqueue, "acme/users", None), Err("policy: denied by rule 2".to_owned()));
    assert!(judge(&policy, Op::Enqueue, "big/orders", None).is_err());
    assert!(judge(&policy, Op::Recv, "acme/users", None).is_ok());
    assert!(judge(&policy, Op::Enqueue, "acme/", None).is_err(), "no topic: only rules without one");
    let empty = parse("version = 1\n");
    assert_eq!(judge(&empty, Op::Stat, "a/b", None), Err("policy: no rule allows this".to_owned()));
    assert!(judge(&Policy::default(), Op::Admin, "a/b", None).is_ok(), "no policy denies nothing");
}

#[test]
fn a_preset_relaxes_bursts_and_quanta_and_no_rate() {
    let policy = parse("version = 1\n[tenant.a]\nrps = 10\nbytes_per_s = 1000\nweight = 3\nmax_depth = 5\n");
    let quotas = policy.quotas(&Tenant::parse("a").unwrap());
    let relaxed = quotas.under(policy.preset(BROWNOUT).unwrap());
    assert_eq!((relaxed.rps, relaxed.burst, relaxed.weight), (10, 20, 12));
    assert_eq!((relaxed.bytes_per_s, relaxed.bytes_burst, relaxed.max_depth), (1_000, 2_000, 5));
    let free = Quotas::default().under(Preset::BROWNOUT);
    assert_eq!((free.request_rate(), free.byte_rate(), free.weight), (None, None, 4));
}
