//! Tables, chains and rules as messages.

use super::encode::{Attribute, Family, Kind, Message, Transaction, bytes, nested, number, text};

/// A table by its family and name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) family: Family,
    pub(super) name: &'a str,
}

impl Table<'_> {
    /// An empty one, whatever is there now.
    pub(super) fn make_anew(self, changes: &mut Transaction) {
        self.remove(changes);
        changes.create("make the packet table", self.message(Kind::NewTable));
    }

    /// Deleting what is not there would fail, hence it is made first.
    pub(super) fn remove(self, changes: &mut Transaction) {
        changes.create("make the packet table", self.message(Kind::NewTable));
        changes.change("clear the packet table", self.message(Kind::DeleteTable));
    }

    pub(super) fn message(self, kind: Kind) -> Message {
        const NAME: u16 = 1;
        Message::new(kind, self.family, vec![text(NAME, self.name)])
    }

    pub(super) fn append_rule(
        self,
        changes: &mut Transaction,
        chain: &str,
        expressions: &[Attribute],
    ) {
        const TABLE: u16 = 1;
        const CHAIN: u16 = 2;
        const EXPRESSIONS: u16 = 4;
        let rule = Message::new(
            Kind::NewRule,
            self.family,
            vec![
                text(TABLE, self.name),
                text(CHAIN, chain),
                nested(EXPRESSIONS, expressions),
            ],
        );
        changes.append("make a packet rule", rule);
    }
}

/// A chain, with where it is hooked in (hook, priority, type).
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<(u32, i32, &'static str)>,
}

impl Chain {
    pub(super) fn make(&self, changes: &mut Transaction, table: Table<'_>) {
        const TABLE: u16 = 1;
        const NAME: u16 = 3;
        const HOOK: u16 = 4;
        const TYPE: u16 = 7;
        const NUMBER: u16 = 1;
        const PRIORITY: u16 = 2;
        let mut attributes = vec![text(TABLE, table.name), text(NAME, self.name)];
        if let Some((hook, priority, kind)) = self.hook {
            let place = [
                number(NUMBER, hook),
                bytes(PRIORITY, &priority.to_be_bytes()),
            ];
            attributes.extend([nested(HOOK, &place), text(TYPE, kind)]);
        }
        let declaration = Message::new(Kind::NewChain, table.family, attributes);
        changes.create("make a packet chain", declaration);
    }
}
