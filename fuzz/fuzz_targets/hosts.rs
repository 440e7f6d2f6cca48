//! The `hosts.toml` of a registry. What is understood can be asked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let urls = crisp_image::fuzz::hosts(input);
    if let Some(urls) = urls {
        let http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        assert!(!urls.is_empty() && urls.iter().all(http), "{urls:?}");
    }
});
