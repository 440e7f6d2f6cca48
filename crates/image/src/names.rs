//! What images are called, and how one goes with its last name.

use crate::catalogue::{Catalogue, Entry};
use crate::store::Store;
use crate::{Error, Image, ImageId, Reference};
use crisp_crash::point;
use std::sync::Arc;

/// What becomes of an image that has a name which another one is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// It keeps it, and the other one goes without.
    IfFree,
    /// It loses it.
    Force,
}

impl Store {
    /// Gives an image that is here more names. None if it is not here (any more). Blocks.
    pub(crate) fn name(
        &self,
        id: &ImageId,
        names: Vec<String>,
    ) -> Result<Option<Arc<Image>>, Error> {
        let _writer = self.lock_writer();
        let catalogue = self.catalogue();
        match catalogue.get(id) {
            Some(entry) => self.add_names(&catalogue, entry, names).map(Some),
            None => Ok(None),
        }
    }

    /// Gives the image that is called `name` a tag. Blocks.
    pub(crate) fn tag(
        &self,
        name: &str,
        tag: &Reference,
        naming: Naming,
    ) -> Result<Arc<Image>, Error> {
        let _writer = self.lock_writer();
        let catalogue = self.catalogue();
        let entry = catalogue
            .find(name)?
            .ok_or_else(|| Error::not_found(name))?;
        let tag = tag.to_string();
        match catalogue.called(&tag) {
            Some(other) if other.image.id != entry.image.id && naming == Naming::IfFree => {
                Err(Error::NameTaken {
                    image: other.image.id.to_string(),
                    name: tag,
                })
            }
            _ => self.add_names(&catalogue, entry, vec![tag]),
        }
    }

    /// The caller holds the writer's lock.
    fn add_names(
        &self,
        catalogue: &Catalogue,
        entry: &Arc<Entry>,
        names: Vec<String>,
    ) -> Result<Arc<Image>, Error> {
        let (id, settings) = (&entry.image.id, self.settings());
        let named = catalogue.with(entry.with_names(names, &settings), &settings);
        if named.get(id) != Some(entry) {
            self.set_catalogue(named, true)?;
        }
        self.image(id)
    }

    /// Takes a name away from its image, which is removed with its last one. Blocks.
    pub(crate) fn untag(&self, name: &Reference) -> Result<(), Error> {
        let name = name.to_string();
        {
            let _writer = self.lock_writer();
            let catalogue = self.catalogue();
            let entry = catalogue
                .called(&name)
                .ok_or_else(|| Error::not_found(&name))?;
            if entry.names().any(|other| *other != name) {
                let without = catalogue.without_name(&name, &self.settings());
                return self.set_catalogue(without, true);
            }
            self.unlist(&catalogue, &entry.image.id)?;
        }
        self.collect_unlisted();
        Ok(())
    }

    /// Removes the image that is called so, with all its names; that there is none is fine. Blocks.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        {
            let _writer = self.lock_writer();
            let catalogue = self.catalogue();
            let Some(entry) = catalogue.find(name)? else {
                return Ok(());
            };
            self.unlist(&catalogue, &entry.image.id)?;
        }
        self.collect_unlisted();
        Ok(())
    }

    /// The caller holds the writer's lock.
    fn unlist(&self, catalogue: &Catalogue, id: &ImageId) -> Result<(), Error> {
        let without = catalogue.without(id);
        match self.set_catalogue(without.clone(), true) {
            // What goes makes room for the index. One that names an image without layers counts as
            // one that does not name it.
            Err(Error::NoSpace { .. }) => {
                self.show_catalogue(without.clone());
                self.collect_layers();
                self.set_catalogue(without, true).inspect_err(|_| {
                    // The index still names it: it is there to be removed again.
                    self.show_catalogue(catalogue.clone());
                })
            }
            written => written,
        }
    }

    fn collect_unlisted(&self) {
        point!("remove-image.unlisted");
        self.collect_garbage();
        point!("remove-image.blobs-removed");
    }
}
