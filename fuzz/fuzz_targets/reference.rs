//! A reference to an image. Written out, it is the same one.
#![no_main]

use crisp_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    if let Ok(reference) = input.parse::<Reference>() {
        let written = reference.to_string();
        assert_eq!(
            written.parse::<Reference>().ok(),
            Some(reference),
            "{written}"
        );
    }
});
