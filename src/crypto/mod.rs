//! Keys, certificates, client ids and the message envelope. Pure: bytes in, bytes out.
