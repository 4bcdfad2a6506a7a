//! An object on its way in, whatever it travels over.

use bytes::BytesMut;
use ron_actors::store::{OBJECT_WHOLE_MAX, Store, Upload};
use ron_core::ids::{ContentHash, Tenant};
use ron_core::reason::Refusal;

/// What has come of an object: in memory while it is small, then in the store.
#[derive(Debug)]
pub(crate) struct Taken {
    store: Store,
    tenant: Tenant,
    small: BytesMut,
    upload: Option<Upload>,
}

impl Taken {
    /// Nothing yet, of an object of this tenant.
    pub(crate) fn new(store: Store, tenant: Tenant) -> Taken {
        Taken { store, tenant, small: BytesMut::new(), upload: None }
    }

    /// More of it.
    ///
    /// # Errors
    /// What the store says of it.
    pub(crate) async fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if self.upload.is_none() && self.small.len() + data.len() <= OBJECT_WHOLE_MAX {
            self.small.extend_from_slice(data);
            return Ok(());
        }
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let upload = self.upload.insert(self.store.upload(&self.tenant)?);
                upload.write(&std::mem::take(&mut self.small)).await?;
                upload
            }
        };
        upload.write(data).await
    }

    /// The BLAKE3 of what has come.
    pub(crate) fn hash(&self) -> ContentHash {
        self.upload.as_ref().map_or_else(|| ContentHash::of(&self.small), Upload::hash)
    }

    /// All of it is there: stores it, and gives its address.
    ///
    /// # Errors
    /// What the store says of it.
    pub(crate) async fn store(self) -> Result<ContentHash, Refusal> {
        match self.upload {
            Some(upload) => upload.finish().await,
            None => self.store.put_object(&self.tenant, self.small.freeze()).await,
        }
    }
}
