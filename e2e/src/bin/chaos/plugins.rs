//! A network of CNI plugins that comes and goes, of which the last one hangs or fails when it is told.

use anyhow::Result;
use crisp_e2e::Node;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Its own part is none: it hands on what the plugins before it have made.
const SCRIPT: &str = r#"
input=$(cat)
while [ -e hang ]; do sleep 0.05; done
if [ -e fail ]; then
    echo '{"cniVersion": "1.0.0", "code": 100, "msg": "told to fail"}'
    exit 1
fi
[ $CNI_COMMAND = ADD ] || exit 0
echo "$input" | sed 's/.*"prevResult":\(.*}\),"type".*/\1/'"#;

#[derive(Debug)]
pub(crate) struct Plugins {
    scratch: PathBuf,
}

/// What the last plugin does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mood {
    Hang,
    Fail,
}

impl Plugins {
    pub(crate) fn install(node: &Node) -> Result<Self> {
        node.cni_plugin("moody", SCRIPT)?;
        Ok(Self {
            scratch: node.scratch()?,
        })
    }

    /// Has pods to come be wired by plugins, or not any more.
    pub(crate) fn toggle(&self, node: &Node) -> Result<&'static str> {
        if node.cni_config().exists() {
            fs::remove_file(node.cni_config())?;
            return Ok("bridge");
        }
        node.configure_cni(&node.cni_network(&[json!({"type": "moody"})]))?;
        Ok("plugins")
    }

    pub(crate) fn set(&self, mood: Mood) -> Result<()> {
        Ok(fs::write(self.switch(mood), "")?)
    }

    pub(crate) fn reset(&self, mood: Mood) -> Result<()> {
        Ok(fs::remove_file(self.switch(mood))?)
    }

    fn switch(&self, mood: Mood) -> PathBuf {
        self.scratch.join(match mood {
            Mood::Hang => "hang",
            Mood::Fail => "fail",
        })
    }
}
