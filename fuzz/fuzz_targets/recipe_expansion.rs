#![no_main]
#![allow(dead_code, reason = "one list of bodies for all targets")]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::recipe_expansion(data);
});
