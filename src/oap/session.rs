//! Who a connection acts for: the capability of its last START, judged anew for every request.

use super::listen::OapApp;
use crate::http::auth::{Ask, Audience, Authority, Op};
use ron_actors::passport::{Passport, Remembered};
use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_core::oap;
use ron_core::policy;
use ron_core::reason::{Reason, Refusal};
use std::net::IpAddr;
use zeroize::Zeroizing;

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    token: Zeroizing<String>,
    known: Remembered,
    tenant: Tenant,
    tenant_id: u128,
}

/// What a request may do.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) authority: Authority,
    /// Whether requests like it are charged to a rate. If not, those that come with it need not be judged anew.
    pub(super) metered: bool,
}

impl Session {
    /// The session of whoever brings this capability.
    ///
    /// # Errors
    /// As [`Passport::present`].
    pub(super) async fn open(passport: &Passport, cap: &[u8], wall_s: u64) -> Result<Session, Refusal> {
        let token = std::str::from_utf8(cap)
            .map_err(|_| Refusal::new(Reason::Unauth, "cap must be a capability's text"))?;
        let tenant = passport.present(token, wall_s).await?;
        let (tenant_id, known) = (oap::tenant_id(&tenant), passport.remembered(token));
        Ok(Session { token: Zeroizing::new(token.to_owned()), known, tenant, tenant_id })
    }

    /// The capability's text.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Refuses a frame that names another tenant.
    pub(super) fn check_tenant(&self, tenant_id: u128) -> Result<(), Refusal> {
        if tenant_id == 0 || tenant_id == self.tenant_id {
            return Ok(());
        }
        Err(Refusal::new(Reason::ScopeMismatch, "tenant_id must be 0 or that of the capability's tenant"))
    }

    /// The queue of a topic.
    pub(super) fn queue(&self, topic: &str) -> Result<QueueKey, Refusal> {
        let topic = Topic::parse(topic).map_err(|bad| Refusal::new(Reason::Malformed, bad.to_string()))?;
        Ok(QueueKey { tenant: self.tenant.clone(), topic })
    }

    /// Whose the connection is.
    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What the capability and the policy allow of one request; charges its rates, unless it settles.
    pub(super) async fn allow(
        &self,
        app: &OapApp,
        op: Op,
        topic: Option<&Topic>,
        bytes: Option<u64>,
        (peer, wall_s): (IpAddr, u64),
    ) -> Result<Judged, Refusal> {
        let tenant = &self.tenant;
        let ask = Ask {
            op,
            tenant,
            topic,
            audience: Audience::Mailbox,
            peer,
            message_bytes: bytes,
            wall_unix_s: wall_s,
        };
        let grant = match app.passport.authorize_remembered(&self.known, &ask) {
            Some(judged) => judged?,
            None => app.passport.authorize(&self.token, &ask).await?,
        };
        let request = policy::Request { op, tenant, topic, provider: None };
        let allowed = app.policy.peek().policy.judge(&request)?;
        bytes.map_or(Ok(()), |bytes| allowed.check_bytes(bytes))?;
        if !op.settles() {
            app.policy.charge_request(tenant, &*app.clock)?;
        }
        let metered = !op.settles() && (grant.capability.is_metered() || app.policy.meters_requests(tenant));
        Ok(Judged { authority: Authority { held: Some(grant), allowed }, metered })
    }
}
