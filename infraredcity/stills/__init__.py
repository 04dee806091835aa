"""One picture: encoding, decoding, framing, and counts of 16 bits as levels."""
