//! A CMK inside a token (PKCS#11).
