package jws

// VerifyOctets checks a signature over octets that need not be a token: the
// part of [PublicKey.Verify] that is arithmetic. An ECDSA signature is r and s
// of 32 octets each (RFC 7518, section 3.4). It returns an [ErrSignature].
func (p *PublicKey) VerifyOctets(text, signature []byte) error {
	if !p.signed(text, signature) {
		return ErrSignature
	}
	return nil
}
