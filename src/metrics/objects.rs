//! The gauges of objects, set with the store's figures.

use super::Names;
use metrics::Gauge;
use ron_actors::store::StoreFigures;

/// What objects there are.
#[derive(Debug)]
pub struct ObjectGauges {
    count: Gauge,
    bytes: Gauge,
    held: Gauge,
    uploads: Gauge,
}

impl ObjectGauges {
    pub(super) fn of(r: &Names<'_>) -> ObjectGauges {
        ObjectGauges {
            count: r.gauge("store_objects", "Objects.", &[]),
            bytes: r.gauge("store_object_bytes", "Bytes of all objects.", &[]),
            held: r.gauge("store_objects_held", "Objects that messages refer to.", &[]),
            uploads: r.gauge("store_object_uploads", "Uploads of objects under way.", &[]),
        }
    }

    /// Shows what the store says of them.
    pub fn show(&self, figures: &StoreFigures) {
        self.count.set(figures.objects as f64);
        self.bytes.set(figures.object_bytes as f64);
        self.held.set(figures.objects_held as f64);
        self.uploads.set(figures.object_uploads as f64);
    }
}
