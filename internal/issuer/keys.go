package issuer

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// currentKey returns the newest key that signs.
func currentKey(rd Reader) (SigningKey, error) {
	keys, err := rd.SigningKeys()
	if err != nil {
		return SigningKey{}, err
	}
	for _, k := range slices.Backward(keys) {
		if !k.Withdrawn && k.Retired.IsZero() {
			return k, nil
		}
	}
	return SigningKey{}, fmt.Errorf("signing key: %w", ErrNotFound)
}

// makeSigningKey makes the key that signs from now on.
func (i *Issuer) makeSigningKey(tx Tx) error {
	private, err := jws.Generate(i.cfg.Algorithm)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	public, err := private.Public().MarshalJSON()
	if err != nil {
		return err
	}
	der, err := private.Marshal()
	if err != nil {
		return err
	}
	id := private.Public().ID()
	sealed, err := seal(i.sealingKey, der, id)
	if err != nil {
		return err
	}
	key := SigningKey{ID: id, Algorithm: string(i.cfg.Algorithm), Public: public, Sealed: sealed, Created: tx.Now()}
	if err := tx.PutSigningKey(key); err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]string{"kid": id, "alg": key.Algorithm})
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: signingKeyMade.Name, Actor: system.Name, Detail: detail})
}

// signer opens a sealed key, once.
func (i *Issuer) signer(k SigningKey) (*jws.PrivateKey, error) {
	i.signersMu.Lock()
	defer i.signersMu.Unlock()
	if private, ok := i.signers[k.ID]; ok {
		return private, nil
	}
	der, err := unseal(i.sealingKey, k.Sealed, k.ID)
	if err != nil {
		return nil, fmt.Errorf("the signing keys were sealed with another secret; start with the one they were made with: %w", err)
	}
	private, err := jws.ParsePrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", k.ID, err)
	}
	i.signers[k.ID] = private
	return private, nil
}

// withdraw carries out KeyCompromised: the key signs no more, is published no
// more, and another takes its place, in one transaction with the revocation.
func (i *Issuer) withdraw(ctx context.Context, by Actor, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		keys, err := tx.SigningKeys()
		if err != nil {
			return err
		}
		at := slices.IndexFunc(keys, func(k SigningKey) bool { return k.ID == t.Value })
		if at < 0 {
			return ErrNotFound
		}
		key := keys[at]
		if out.Event = KeyCompromised.Name; key.Withdrawn {
			return nil // its tokens are dead already
		}
		key.Withdrawn, key.Sealed = true, nil
		setDefault(&key.Retired, key.Retired.IsZero(), tx.Now())
		if err := tx.PutSigningKey(key); err != nil {
			return err
		}
		if _, err := currentKey(tx); errors.Is(err, ErrNotFound) {
			err = i.makeSigningKey(tx)
			if err != nil {
				return err
			}
		}
		return i.apply(tx, KeyCompromised, by, t, out)
	})
	if err == nil && !t.DryRun {
		i.signersMu.Lock()
		delete(i.signers, t.Value)
		i.signersMu.Unlock()
	}
	return out, explain("signing key", err)
}

// SigningKeys lists the keys, the withdrawn ones too, oldest first.
func (i *Issuer) SigningKeys(ctx context.Context) (keys []SigningKey, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		keys, err = rd.SigningKeys()
		return err
	})
	return keys, explain("signing key", err)
}

// PublicKeys returns the keys that live tokens may be signed with, as they
// stand in the JWKS.
func (i *Issuer) PublicKeys(ctx context.Context) (*jws.KeySet, error) {
	var set *jws.KeySet
	err := i.store.View(ctx, func(rd Reader) (err error) {
		set, err = Published(rd)
		return err
	})
	return set, explain("signing key", err)
}

// Published returns the keys that live tokens may be signed with: those that
// sign, and those that stopped no longer ago than a token lives.
func Published(rd interface {
	Now() time.Time
	Log() (Log, error)
	SigningKeys() ([]SigningKey, error)
},
) (*jws.KeySet, error) {
	keys, err := rd.SigningKeys()
	if err != nil {
		return nil, err
	}
	log, err := rd.Log()
	if err != nil {
		return nil, err
	}
	var published struct {
		Keys []json.RawMessage `json:"keys"`
	}
	for _, k := range keys {
		if !k.Withdrawn && (k.Retired.IsZero() || rd.Now().Before(k.Retired.Add(log.MaxLifetime+forgetMargin))) {
			published.Keys = append(published.Keys, k.Public)
		}
	}
	jwks, err := json.Marshal(published)
	if err != nil {
		return nil, err
	}
	set, err := jws.ParseKeySet(jwks)
	if err == nil && set.Len() != len(published.Keys) {
		err = errors.New("a signing key in the store cannot be used")
	}
	return set, err
}

// seal encrypts with AES-256-GCM; the name is bound to it.
func seal(key, plain []byte, name string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, []byte(name)), nil
}

func unseal(key, sealed []byte, name string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, []byte(name))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

const (
	apiKeyPrefix = "qk_"
	apiKeyIDSize = 11
)

// CreateAPIKey makes a key with a name and scopes and returns its secret,
// which is shown this once. A key for a verifier has ScopeFeed alone.
func (i *Issuer) CreateAPIKey(ctx context.Context, by Actor, name string, scopes []Scope) (APIKey, string, error) {
	if !printable(name, 1, 64) {
		return APIKey{}, "", refuse(CodeInvalid, "name: want 1 to 64 characters, none of them a control character")
	}
	if err := checkScopes(scopes); err != nil {
		return APIKey{}, "", err
	}
	k := APIKey{ID: newID("")[:apiKeyIDSize], Name: name, Scopes: scopes}
	secret := k.newSecret()
	_, err := i.store.Update(ctx, func(tx Tx) error {
		k.Created = tx.Now()
		if err := tx.PutAPIKey(k); err != nil {
			return err
		}
		return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: apiKeyCreated.Name, Actor: by.Name, Address: by.Address, Reason: name})
	})
	return k, secret, explain("key", err)
}

func checkScopes(scopes []Scope) error {
	known := []Scope{ScopeFeed, ScopeRevoke, ScopeSessions, ScopeAccounts, ScopeAudit, ScopeKeys}
	for n, s := range scopes {
		if !slices.Contains(known, s) || slices.Contains(scopes[:n], s) {
			return refuse(CodeInvalid, "scopes: %q is unknown or there twice; the scopes are %q", s, known)
		}
	}
	if len(scopes) == 0 || slices.Contains(scopes, ScopeFeed) && len(scopes) > 1 {
		return refuse(CodeInvalid, "scopes: want one or more, and feed only alone: a verifier's key can do nothing else")
	}
	return nil
}

// newSecret gives k a new secret and returns it.
func (k *APIKey) newSecret() string {
	var b [32]byte
	randomize(b[:])
	secret := apiKeyPrefix + k.ID + "_" + base64.RawURLEncoding.EncodeToString(b[:])
	k.Hash = sha256.Sum256([]byte(secret))
	return secret
}

// ReplaceAPIKey gives a key a new secret; the old one goes on working for the
// overlap, 0 to 30 days.
func (i *Issuer) ReplaceAPIKey(ctx context.Context, by Actor, id string, overlap time.Duration) (k APIKey, secret string, err error) {
	if overlap < 0 || overlap > 30*24*time.Hour {
		return k, "", refuse(CodeInvalid, "overlap: want 0 to 30 days, got %v", overlap)
	}
	_, err = i.store.Update(ctx, func(tx Tx) error {
		if k, err = tx.APIKey(id); err != nil {
			return err
		}
		k.Previous, k.PreviousUntil = k.Hash, tx.Now().Add(overlap)
		secret = k.newSecret()
		if err := tx.PutAPIKey(k); err != nil {
			return err
		}
		return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: apiKeyReplaced.Name, Actor: by.Name, Address: by.Address, Reason: k.Name})
	})
	return k, secret, explain("key", err)
}

// DeleteAPIKey ends a key at once.
func (i *Issuer) DeleteAPIKey(ctx context.Context, by Actor, id string) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		k, err := tx.APIKey(id)
		if err != nil {
			return err
		}
		if err := tx.DeleteAPIKey(id); err != nil {
			return err
		}
		return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: apiKeyDeleted.Name, Actor: by.Name, Address: by.Address, Reason: k.Name})
	})
	return explain("key", err)
}

// APIKeys lists the keys, oldest first.
func (i *Issuer) APIKeys(ctx context.Context) (keys []APIKey, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		keys, err = rd.APIKeys()
		return err
	})
	return keys, explain("key", err)
}

var errKey = refuse(CodeToken, "the key is not known here; make one with quash key create")

// Authenticate returns the key that a secret belongs to, and notes its use.
// Every other text is CodeToken.
func (i *Issuer) Authenticate(ctx context.Context, secret string) (APIKey, error) {
	id, ok := apiKeyID(secret)
	if !ok {
		return APIKey{}, errKey
	}
	var k APIKey
	var now time.Time
	err := i.store.View(ctx, func(rd Reader) (err error) {
		now = rd.Now()
		k, err = rd.APIKey(id)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return APIKey{}, errKey
	}
	if err != nil {
		return APIKey{}, explain("key", err)
	}
	hash := sha256.Sum256([]byte(secret))
	current := subtle.ConstantTimeCompare(hash[:], k.Hash[:]) == 1
	previous := subtle.ConstantTimeCompare(hash[:], k.Previous[:]) == 1 && now.Before(k.PreviousUntil)
	if !current && !previous {
		return APIKey{}, errKey
	}
	if now.Sub(k.LastUsed) >= time.Minute {
		err = i.noteUse(ctx, id)
	}
	return k, explain("key", err)
}

// apiKeyID returns the part of a secret that names its key. The rest cannot
// be split off at an underscore, which base64url has too.
func apiKeyID(secret string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(secret, apiKeyPrefix)
	if !ok || len(rest) != apiKeyIDSize+1+base64.RawURLEncoding.EncodedLen(32) || rest[apiKeyIDSize] != '_' {
		return "", false
	}
	return rest[:apiKeyIDSize], true
}

// noteUse writes down that a key was used; others may have done so meanwhile.
func (i *Issuer) noteUse(ctx context.Context, id string) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		k, err := tx.APIKey(id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		k.LastUsed = tx.Now().Truncate(time.Minute)
		return tx.PutAPIKey(k)
	})
	return err
}
