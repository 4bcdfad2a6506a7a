use super::*;
use crate::entropy::SeededEntropy;
use crate::kernel::bus::BusLimits;
use crate::kernel::event::Event;
use crate::keyring_file::{in_memory, load_or_create};
use crate::revoked_file;
use ractor::Actor;
use ron_core::capability::{Audience, Op};
use ron_core::reason::Effect;
use std::sync::atomic::{AtomicU64, Ordering};

const WALL: Millis = Millis(1_795_000_000_000);
const DAY: u64 = 86_400_000;

#[derive(Debug, Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Millis {
        WALL.plus(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Millis {
        self.now()
    }
}

/// A passport with its actor, and what keeps the two in this process.
struct Office {
    passport: Passport,
    clock: Arc<HandClock>,
    bus: Bus,
    actor: PassportRef,
}

fn args(clock: &Arc<HandClock>, bus: &Bus, cache_ttl_ms: u64) -> PassportArgs {
    let entropy = Arc::new(SeededEntropy::new(7));
    PassportArgs {
        keyring: in_memory(WALL, entropy.as_ref()).unwrap(),
        keyring_place: KeyringPlace::Memory,
        revoked: Revoked::default(),
        revoked_file: None,
        clock: clock.clone(),
        entropy,
        bus: bus.clone(),
        limits: PassportLimits { ttl_max_ms: 30 * DAY, cache_ttl_ms },
    }
}

async fn office_of(change: impl FnOnce(&mut PassportArgs)) -> Office {
    let clock = Arc::new(HandClock::default());
    let bus = Bus::new(clock.clone(), BusLimits::default());
    let mut args = args(&clock, &bus, 30_000);
    change(&mut args);
    let passport = Passport::new(args).unwrap();
    let actor = start(&passport).await;
    Office { passport, clock, bus, actor }
}

async fn office() -> Office {
    office_of(|_| {}).await
}

/// What the root does.
async fn start(passport: &Passport) -> PassportRef {
    let (actor, _) = Actor::spawn(None, PassportActor, passport.0.book.clone()).await.unwrap();
    passport.0.publisher.publish(actor.clone());
    actor
}

fn request(ops: Vec<Op>, rps: Option<u64>) -> MintRequest {
    let tenant = Tenant::parse("acme").unwrap();
    let topic = "orders*".to_owned();
    MintRequest { tenant, topic, ops, ttl_ms: Some(60_000), aud: None, ip: None, max_bytes: None, rps }
}

async fn authorize(passport: &Passport, token: &str, op: Op, topic: &str) -> Result<Arc<Grant>, Refusal> {
    let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse(topic).unwrap());
    let ask = Ask {
        op,
        tenant: &tenant,
        topic: Some(&topic),
        audience: Audience::Mailbox,
        peer: "127.0.0.1".parse().unwrap(),
        message_bytes: Some(10),
        wall_unix_s: passport.0.clock.wall().0 / 1000,
    };
    passport.authorize(token, &ask).await
}

#[tokio::test]
async fn what_it_mints_it_accepts_until_it_expires() {
    let Office { passport, clock, .. } = office().await;
    let minted = passport.mint(&request(vec![Op::Recv, Op::Ack], None)).unwrap();
    let authority = authorize(&passport, &minted.token, Op::Recv, "orders.eu").await.unwrap();
    assert_eq!(authority.capability.cap_id, minted.cap_id);
    assert_eq!(authority.capability.kid, passport.0.book.keys().minting().kid);
    let refused =
        async |token: &str, op, topic| authorize(&passport, token, op, topic).await.unwrap_err().reason;
    assert_eq!(refused(&minted.token, Op::Enqueue, "orders").await, Reason::ScopeMismatch);
    assert_eq!(refused(&minted.token, Op::Recv, "other").await, Reason::ScopeMismatch);
    assert_eq!(refused("ron1_x", Op::Recv, "orders").await, Reason::Unauth);
    clock.0.store(90_000, Ordering::SeqCst);
    assert_eq!(refused(&minted.token, Op::Recv, "orders").await, Reason::ExpiredToken);
    let other = passport.mint(&request(vec![Op::Recv], None)).unwrap();
    assert_ne!(other.cap_id, minted.cap_id);
}

#[tokio::test]
async fn a_webhooks_token_enqueues_to_its_topic() {
    let passport = office().await.passport;
    let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse("github").unwrap());
    let grant = passport.mint_webhook(&tenant, &topic, 10, WALL).unwrap();
    let peer = "127.0.0.1".parse().unwrap();
    let judge = |op, topic: &str, message_bytes, wall: Millis| {
        let (audience, wall_unix_s) = (Audience::Mailbox, wall.0 / 1000);
        let topic = Topic::parse(topic).unwrap();
        let ask =
            Ask { op, tenant: &tenant, topic: Some(&topic), audience, peer, message_bytes, wall_unix_s };
        passport.judge(grant.clone(), &ask).map(drop).map_err(|refusal| refusal.reason)
    };
    assert_eq!(judge(Op::Enqueue, "github", Some(10), WALL), Ok(()));
    assert_eq!(judge(Op::Enqueue, "other", Some(10), WALL), Err(Reason::ScopeMismatch));
    assert_eq!(judge(Op::Recv, "github", None, WALL), Err(Reason::ScopeMismatch));
    assert_eq!(judge(Op::Enqueue, "github", Some(11), WALL), Err(Reason::ScopeMismatch));
    assert_eq!(judge(Op::Enqueue, "github", Some(10), Millis(WALL.0 + 91_000)), Err(Reason::ExpiredToken));
    let other = passport.mint_webhook(&tenant, &topic, 10, WALL).unwrap();
    assert_ne!(other.capability.cap_id, grant.capability.cap_id);
}

#[tokio::test]
async fn a_rate_is_shared_with_descendants_and_spares_settling() {
    let Office { passport, clock, .. } = office().await;
    let minted = passport.mint(&request(vec![Op::Recv, Op::Ack], Some(2))).unwrap();
    let child = capability::attenuate(&minted.token, &["op = recv".into()]).unwrap();
    assert!(authorize(&passport, &minted.token, Op::Recv, "orders").await.is_ok());
    assert!(authorize(&passport, &child, Op::Recv, "orders").await.is_ok());
    let refusal = authorize(&passport, &minted.token, Op::Recv, "orders").await.unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::RateLimit, Some(500)));
    assert!(authorize(&passport, &minted.token, Op::Ack, "orders").await.is_ok());
    assert!(authorize(&passport, &child, Op::Extend, "orders").await.is_ok());
    clock.0.store(500, Ordering::SeqCst);
    assert!(authorize(&passport, &child, Op::Recv, "orders").await.is_ok());
    assert!(authorize(&passport, &child, Op::Recv, "orders").await.is_err());
}

#[tokio::test]
async fn a_refusal_by_one_bucket_charges_no_other() {
    let Office { passport, clock, .. } = office().await;
    let wide = passport.mint(&request(vec![Op::Recv], Some(2))).unwrap().token;
    let narrow = capability::attenuate(&wide, &["rps = 1".into()]).unwrap();
    assert!(authorize(&passport, &narrow, Op::Recv, "orders").await.is_ok());
    assert!(authorize(&passport, &narrow, Op::Recv, "orders").await.is_err());
    assert!(authorize(&passport, &wide, Op::Recv, "orders").await.is_ok(), "its second token is still there");
    assert!(authorize(&passport, &wide, Op::Recv, "orders").await.is_err());
    let never = capability::attenuate(&wide, &["rps = 0".into()]).unwrap();
    clock.0.store(5000, Ordering::SeqCst);
    assert_eq!(authorize(&passport, &never, Op::Recv, "orders").await.unwrap_err().reason, Reason::RateLimit);
}

fn refused(judged: Option<Result<Arc<Grant>, Refusal>>) -> Option<Reason> {
    judged.and_then(Result::err).map(|refusal| refusal.reason)
}

/// What the hot path says of a token, without the actor.
fn known(passport: &Passport, token: &str) -> Option<Result<Arc<Grant>, Refusal>> {
    let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse("orders").unwrap());
    let wall_unix_s = passport.0.clock.wall().0 / 1000;
    let peer = "127.0.0.1".parse().unwrap();
    let (op, audience, topic) = (Op::Recv, Audience::Mailbox, Some(&topic));
    passport.authorize_known(
        token,
        &Ask { op, tenant: &tenant, topic, audience, peer, message_bytes: None, wall_unix_s },
    )
}

#[tokio::test]
async fn while_its_actor_is_down_only_remembered_tokens_count() {
    let Office { passport, clock, actor, .. } = office().await;
    let recv = request(vec![Op::Recv], None);
    let (seen, unseen) = (passport.mint(&recv).unwrap().token, passport.mint(&recv).unwrap().token);
    let webhook = |passport: &Passport| {
        let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse("orders").unwrap());
        passport.mint_webhook(&tenant, &topic, 10, WALL)
    };
    webhook(&passport).unwrap();
    assert!(known(&passport, &seen).is_none(), "nothing is remembered that was not checked");
    authorize(&passport, &seen, Op::Recv, "orders").await.unwrap();

    passport.crash();
    actor.wait(None).await.unwrap();
    assert!(!passport.is_up());
    for _ in 0..2 {
        authorize(&passport, &seen, Op::Recv, "orders").await.unwrap();
        for token in [unseen.as_str(), "ron1_nonsense"] {
            let refusal = authorize(&passport, token, Op::Recv, "orders").await.unwrap_err();
            assert_eq!((refusal.reason, refusal.effect), (Reason::DownstreamUnavailable, Effect::None));
        }
    }
    assert_eq!(passport.mint(&recv).unwrap_err().reason, Reason::DownstreamUnavailable);
    assert_eq!(webhook(&passport).unwrap_err().reason, Reason::DownstreamUnavailable);
    // use does not lengthen its time
    clock.0.store(29_999, Ordering::SeqCst);
    authorize(&passport, &seen, Op::Recv, "orders").await.unwrap();
    clock.0.store(30_000, Ordering::SeqCst);
    let refusal = authorize(&passport, &seen, Op::Recv, "orders").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::DownstreamUnavailable);

    start(&passport).await;
    for token in [&seen, &unseen] {
        authorize(&passport, token, Op::Recv, "orders").await.unwrap();
    }
    assert!(passport.mint(&recv).is_ok());
}

#[tokio::test]
async fn too_many_waiting_checks_are_refused_and_the_room_comes_back() {
    let passport = office().await.passport;
    let token = passport.mint(&request(vec![Op::Recv], None)).unwrap().token;
    let held: Vec<_> = (0..WAITING_MAX).map(|_| passport.0.admission.try_acquire(1).unwrap()).collect();
    let refusal = authorize(&passport, &token, Op::Recv, "orders").await.unwrap_err();
    assert_eq!((refusal.reason, refusal.effect), (Reason::Backpressure, Effect::None));
    drop(held);
    authorize(&passport, &token, Op::Recv, "orders").await.unwrap();
    assert_eq!(passport.0.admission.in_use().count, 0);
}

#[tokio::test]
async fn a_revocation_is_in_force_at_once_and_told() {
    let Office { passport, bus, actor, .. } = office().await;
    let mut events = bus.subscribe("test", "kernel");
    let mint = || passport.mint(&request(vec![Op::Recv], None)).unwrap();
    let (one, other, third) = (mint(), mint(), mint());
    let child = capability::attenuate(&one.token, &["op = recv".into()]).unwrap();
    let mut grants = Vec::new();
    for token in [&one.token, &child, &other.token] {
        grants.push(authorize(&passport, token, Op::Recv, "orders").await.unwrap());
    }
    let now_s = WALL.0 / 1000;
    assert!(grants.iter().all(|grant| grant.still_holds(now_s).is_ok()));
    // even while nothing can be checked
    passport.crash();
    actor.wait(None).await.unwrap();
    let done = passport.revoke(vec![Revocation::Cap(one.cap_id)]).await.unwrap();
    assert!(!done[0].already);
    for (token, grant) in [(&one.token, &grants[0]), (&child, &grants[1])] {
        assert_eq!(refused(known(&passport, token)), Some(Reason::Unauth));
        assert_eq!(grant.still_holds(now_s).unwrap_err().reason, Reason::Unauth);
    }
    assert!(known(&passport, &other.token).unwrap().is_ok() && grants[2].still_holds(now_s).is_ok());
    start(&passport).await;
    assert_eq!(
        authorize(&passport, &one.token, Op::Recv, "orders").await.unwrap_err().reason,
        Reason::Unauth
    );
    assert!(authorize(&passport, &third.token, Op::Recv, "orders").await.is_ok());
    assert!(passport.revoke(vec![Revocation::Cap(one.cap_id)]).await.unwrap()[0].already);
    let told = events.try_recv().unwrap().event.clone();
    assert_eq!(told, Event::CapRevoked { cap_id: Some(one.cap_id.to_string().into()), kid: None });
    assert!(events.try_recv().is_none(), "a repetition is no event");
}

#[tokio::test]
async fn a_rotation_overlaps_and_a_key_can_be_revoked_after_it() {
    let Office { passport, clock, .. } = office().await;
    let never = MintRequest { ttl_ms: None, ..request(vec![Op::Recv], None) };
    let old = passport.mint(&never).unwrap();
    let old_kid = passport.keys()[0].kid.clone();
    let kids = vec![Revocation::Cap(old.cap_id), Revocation::Kid(old_kid.clone())];
    let refusal = passport.revoke(kids).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Malformed);
    assert!(refusal.text.contains("ronctl key rotate"), "{}", refusal.text);
    let grant = authorize(&passport, &old.token, Op::Recv, "orders").await.unwrap();

    let rotated = passport.rotate().await.unwrap();
    assert_eq!(rotated.retired, [(old_kid.clone(), WALL.0 / 1000 + 60 * 86_400)]);
    let new = passport.mint(&never).unwrap();
    let judged = authorize(&passport, &new.token, Op::Recv, "orders").await.unwrap();
    assert_eq!(judged.capability.kid, rotated.kid);
    authorize(&passport, &old.token, Op::Recv, "orders").await.unwrap();
    let shown: Vec<_> = passport.keys().iter().map(|key| (key.minting, key.not_after, key.revoked)).collect();
    assert_eq!(shown, [(false, Some(WALL.plus(60 * DAY)), false), (true, None, false)]);

    // the last second of the old key, and the first without it: also for what is remembered and for what waits
    clock.0.store(60 * DAY - 1, Ordering::SeqCst);
    authorize(&passport, &old.token, Op::Recv, "orders").await.unwrap();
    clock.0.store(60 * DAY, Ordering::SeqCst);
    assert_eq!(refused(known(&passport, &old.token)), Some(Reason::Unauth));
    assert_eq!(grant.still_holds(passport.0.clock.wall().0 / 1000).unwrap_err().reason, Reason::Unauth);

    let done = passport.revoke(vec![Revocation::Kid(old_kid.clone())]).await.unwrap();
    assert!(done[0].known && !done[0].already && passport.keys()[0].revoked);
    let unknown = Revocation::Kid(ron_core::ids::Kid::parse("elsewhere").unwrap());
    assert!(!passport.revoke(vec![unknown]).await.unwrap()[0].known);
    assert_eq!(passport.rotate().await.unwrap().dropped, [old_kid]);
}

#[tokio::test]
async fn changes_are_on_the_device_before_they_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (keyring, revoked) = (dir.path().join("keyring"), dir.path().join("list/revoked"));
    let entropy = SeededEntropy::new(3);
    let boot = || {
        office_of(|args| {
            args.keyring = load_or_create(&keyring, WALL, &entropy).unwrap();
            args.keyring_place = KeyringPlace::File(keyring.clone());
            args.revoked = revoked_file::load(&revoked).unwrap();
            args.revoked_file = Some(revoked.clone());
        })
    };
    let first = boot().await.passport;
    let recv = request(vec![Op::Recv], None);
    let (kept, ended) = (first.mint(&recv).unwrap(), first.mint(&recv).unwrap());
    let rotated = first.rotate().await.unwrap();
    first.revoke(vec![Revocation::Cap(ended.cap_id)]).await.unwrap();
    let second = boot().await.passport;
    authorize(&second, &kept.token, Op::Recv, "orders").await.unwrap();
    let refusal = authorize(&second, &ended.token, Op::Recv, "orders").await.unwrap_err();
    assert_eq!((refusal.reason, &*refusal.text), (Reason::Unauth, "capability: revoked"));
    let token = second.mint(&recv).unwrap().token;
    let judged = authorize(&second, &token, Op::Recv, "orders").await.unwrap();
    assert_eq!(judged.capability.kid, rotated.kid);

    // a disk that fails: it is in force, says that it may not last, and a repetition writes it
    std::fs::remove_dir_all(dir.path().join("list")).unwrap();
    std::fs::write(dir.path().join("list"), b"in the way").unwrap();
    let refusal = second.revoke(vec![Revocation::Cap(kept.cap_id)]).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.effect), (Reason::Storage, Effect::Unknown));
    assert_eq!(refused(known(&second, &kept.token)), Some(Reason::Unauth));
    std::fs::remove_file(dir.path().join("list")).unwrap();
    assert!(second.revoke(vec![Revocation::Cap(kept.cap_id)]).await.unwrap()[0].already);
    assert_eq!(revoked_file::load(&revoked).unwrap().len(), 2);

    // a keyring that cannot be written: the keys in force are as before
    std::fs::remove_file(&keyring).unwrap();
    assert_eq!(second.rotate().await.unwrap_err().reason, Reason::Storage);
    assert_eq!(second.keys().iter().find(|key| key.minting).unwrap().kid, rotated.kid);
}

#[tokio::test]
async fn a_mounted_keyring_is_never_written_and_a_revoked_one_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyring");
    let ring = load_or_create(&path, WALL, &SeededEntropy::new(3)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let kid = ring.minting().kid.clone();
    let passport = office_of(|args| {
        args.keyring = ring;
        args.keyring_place = KeyringPlace::Mount(path.clone());
        args.revoked.add(&Revocation::Kid(kid), WALL).unwrap();
    });
    let passport = passport.await.passport;
    let refusal = passport.rotate().await.unwrap_err();
    assert_eq!(refusal.reason, Reason::PolicyBlocked);
    assert!(refusal.text.contains("RON_KEYRING"), "{}", refusal.text);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let refusal = passport.mint(&request(vec![Op::Recv], None)).unwrap_err();
    assert_eq!(refusal.reason, Reason::DownstreamUnavailable);
    assert!(refusal.text.contains("ronctl key rotate"), "{}", refusal.text);
}
