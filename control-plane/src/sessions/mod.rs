//! ACS and TCS: sessions with connected agents.
