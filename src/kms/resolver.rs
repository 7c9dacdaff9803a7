//! Opener + KeyService: unwraps through a service once per DEK.
