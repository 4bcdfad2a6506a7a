//! Request counters, latency and inflight of one surface: a table of cached handles, so that a request costs
//! a few atomic additions and no lookup.

use super::{METADATA, labels};
use http::Method;
use metrics::{Counter, Gauge, Histogram, Key, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A request's method as a label: the set is closed, so that a client cannot make series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodLabel {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// A request of OAP/1, which counts under the route of the same call.
    Oap,
    /// Anything else.
    Other,
}

impl MethodLabel {
    const NAMES: [&'static str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OAP", "OTHER"];

    /// The label of `method`.
    #[must_use]
    pub fn of(method: &Method) -> MethodLabel {
        match *method {
            Method::GET => MethodLabel::Get,
            Method::HEAD => MethodLabel::Head,
            Method::POST => MethodLabel::Post,
            Method::PUT => MethodLabel::Put,
            Method::DELETE => MethodLabel::Delete,
            _ => MethodLabel::Other,
        }
    }

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        MethodLabel::NAMES[self as usize]
    }
}

/// Status codes that the node answers with; others are registered when they are seen.
const CODES: [u16; 18] =
    [200, 202, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503, 507];

/// What a surface calls its request metrics and routes.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableSpec {
    pub(super) requests: &'static str,
    pub(super) latency: &'static str,
    /// Whether the latency carries the method too.
    pub(super) latency_by_method: bool,
    pub(super) inflight: &'static str,
    pub(super) routes: &'static [&'static str],
    /// Series that exist at 0 from the start: route, method, code.
    pub(super) preset: &'static [(&'static str, MethodLabel, u16)],
}

/// The request metrics of one surface. Routes are indexes into the surface's own list.
#[derive(Debug)]
pub struct RequestTable {
    spec: TableSpec,
    recorder: Arc<PrometheusRecorder>,
    requests: Vec<OnceLock<Counter>>,
    latency: Vec<OnceLock<Histogram>>,
    inflight: Vec<Gauge>,
}

/// A request being worked on; leaves `inflight` when dropped.
#[derive(Debug)]
pub struct Inflight(Gauge);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl RequestTable {
    pub(super) fn new(recorder: Arc<PrometheusRecorder>, spec: TableSpec) -> RequestTable {
        let methods = MethodLabel::NAMES.len();
        let inflight = spec
            .routes
            .iter()
            .map(|route| {
                let key = Key::from_parts(spec.inflight, labels(&[("route", route)]));
                let gauge = recorder.register_gauge(&key, &METADATA);
                gauge.set(0.0);
                gauge
            })
            .collect();
        let cells = spec.routes.len() * methods;
        let table = RequestTable {
            spec,
            recorder,
            requests: (0..cells * CODES.len()).map(|_| OnceLock::new()).collect(),
            latency: (0..cells).map(|_| OnceLock::new()).collect(),
            inflight,
        };
        for &(name, method, code) in spec.preset {
            if let Some(route) = spec.routes.iter().position(|route| *route == name) {
                table.counter(route, method, code).increment(0);
                table.histogram(route, method);
            }
        }
        table
    }

    /// A request on `route` begins.
    #[must_use]
    pub fn begin(&self, route: usize) -> Inflight {
        let gauge = self.inflight[route].clone();
        gauge.increment(1.0);
        Inflight(gauge)
    }

    /// A request on `route` was answered with `code` after `took`.
    pub fn answered(&self, route: usize, method: MethodLabel, code: u16, took: Duration) {
        self.answered_many(route, method, code, took, 1);
    }

    /// `count` requests on `route` that came together were answered with `code` after `took`.
    pub fn answered_many(&self, route: usize, method: MethodLabel, code: u16, took: Duration, count: usize) {
        self.counter(route, method, code).increment(count as u64);
        self.histogram(route, method).record_many(took.as_secs_f64(), count);
    }

    /// The routes' names, in the order of their indexes.
    #[must_use]
    pub const fn routes(&self) -> &'static [&'static str] {
        self.spec.routes
    }

    fn counter(&self, route: usize, method: MethodLabel, code: u16) -> Counter {
        let register = || {
            let code = code.to_string();
            let labels =
                labels(&[("route", self.spec.routes[route]), ("method", method.name()), ("code", &code)]);
            self.recorder.register_counter(&Key::from_parts(self.spec.requests, labels), &METADATA)
        };
        let Some(at) = CODES.iter().position(|known| *known == code) else {
            return register();
        };
        let cell = (route * MethodLabel::NAMES.len() + method as usize) * CODES.len() + at;
        self.requests[cell].get_or_init(register).clone()
    }

    fn histogram(&self, route: usize, method: MethodLabel) -> &Histogram {
        self.latency[route * MethodLabel::NAMES.len() + method as usize].get_or_init(|| {
            let route = ("route", self.spec.routes[route]);
            let labels = match self.spec.latency_by_method {
                true => labels(&[route, ("method", method.name())]),
                false => labels(&[route]),
            };
            self.recorder.register_histogram(&Key::from_parts(self.spec.latency, labels), &METADATA)
        })
    }
}
