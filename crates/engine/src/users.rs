//! The users and groups of images, read from an image once.

use crate::engine::blocking;
use crate::error::{Error, Result};
use crisp_image::{Image, ImageId, Images};
use crisp_model::{ContainerSecurity, ResolvedUser, USER_FILE_BYTES_MAX, UserDatabase};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Images whose users are kept in memory.
const CACHED_MAX: usize = 64;

/// The users of the images that containers were made of lately.
#[derive(Debug, Default)]
pub(crate) struct Users {
    cached: Mutex<HashMap<ImageId, Arc<UserDatabase>>>,
}

impl Users {
    /// Who a container runs as.
    ///
    /// # Errors
    /// If the user or a group is unknown, or the image cannot be read.
    pub(crate) async fn resolve(
        &self,
        images: &Arc<Images>,
        image: &Image,
        asked: &ContainerSecurity,
        image_user: &str,
    ) -> Result<ResolvedUser> {
        let database = match self.cached(&image.id) {
            Some(database) => database,
            None => self.read(images.clone(), image.id.clone()).await?,
        };
        database
            .resolve(asked, image_user)
            .map_err(|e| Error::invalid("linux.security_context", e.to_string()))
    }

    fn cached(&self, image: &ImageId) -> Option<Arc<UserDatabase>> {
        self.cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(image)
            .cloned()
    }

    async fn read(&self, images: Arc<Images>, image: ImageId) -> Result<Arc<UserDatabase>> {
        let key = image.clone();
        let database = blocking(move || -> Result<UserDatabase> {
            let file = |path| images.read_file(&image, path, USER_FILE_BYTES_MAX);
            let passwd = file("etc/passwd")?.unwrap_or_default();
            let group = file("etc/group")?.unwrap_or_default();
            Ok(UserDatabase::parse(&passwd, &group))
        });
        let database = Arc::new(database.await?);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert(key, database.clone());
        Ok(database)
    }
}
