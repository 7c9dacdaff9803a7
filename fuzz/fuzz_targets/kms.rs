#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| sealwire_fuzz::kms::kms(data));
