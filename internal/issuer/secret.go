package issuer

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/quashdev/quash/internal/jws"
)

// derived is what is made with a server's secret: refresh tokens with the one
// key, sealed signing keys with the other. An Issuer makes with its first and
// takes what either made, so that a secret can be changed while nodes run.
type derived struct{ refresh, sealing []byte }

func derive(secret []byte) (d derived, err error) {
	for label, key := range map[string]*[]byte{"refresh tokens": &d.refresh, "signing keys": &d.sealing} {
		if *key, err = hkdf.Key(sha256.New, secret, nil, "quash "+label, 32); err != nil {
			return d, fmt.Errorf("derive the key for %s: %w", label, err)
		}
	}
	return d, nil
}

// refreshMAC is that of a refresh token of s, over what it names.
func (d derived) refreshMAC(s Session, named []byte) []byte {
	key := hmac.New(sha256.New, d.refresh)
	key.Write(s.Secret[:])
	mac := hmac.New(sha256.New, key.Sum(nil))
	mac.Write(named)
	return mac.Sum(nil)
}

// open opens a sealed key.
func (i *Issuer) open(k SigningKey) (*jws.PrivateKey, error) {
	var der []byte
	var err error
	for _, d := range i.secrets {
		if der, err = unseal(d.sealing, k.Sealed, k.ID); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the signing keys were sealed with another secret; start with the one they were made with, or give that as the previous one: %w", err)
	}
	private, err := jws.ParsePrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", k.ID, err)
	}
	return private, nil
}

// seal encrypts a private key with the secret that makes; its kid is bound to
// it.
func (i *Issuer) seal(private *jws.PrivateKey) ([]byte, error) {
	der, err := private.Marshal()
	if err != nil {
		return nil, err
	}
	return seal(i.secrets[0].sealing, der, private.Public().ID())
}

// reseal seals anew the keys that can sign and that the previous secret sealed.
func (i *Issuer) reseal(tx Tx) error {
	keys, err := signing(tx)
	if err != nil {
		return err
	}
	var sealed []string
	for _, k := range keys {
		if _, err := unseal(i.secrets[0].sealing, k.Sealed, k.ID); err == nil {
			continue
		}
		private, err := i.open(k)
		if err != nil {
			return err
		}
		if k.Sealed, err = i.seal(private); err != nil {
			return err
		}
		if err := tx.PutSigningKey(k); err != nil {
			return err
		}
		sealed = append(sealed, k.ID)
	}
	if len(sealed) == 0 {
		return nil
	}
	detail, err := compact(map[string][]string{"kids": sealed})
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: secretChanged.Name, Actor: system.Name, Detail: detail})
}
