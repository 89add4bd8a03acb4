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

// Two keys can sign at any time: the current one, and the next, which is
// published and has signed nothing yet. When the current one is withdrawn, the
// next takes its place, and verifiers have it already: a key that signs is at
// every verifier in step before the first token that needs it. Keys of another
// algorithm than the configured one are retired at the start, and the current
// one when it has signed for long enough: they sign no more, and stay published
// until their last token has expired.

// signing returns the keys that can sign, the current one first.
func signing(rd Reader) ([]SigningKey, error) {
	keys, err := rd.SigningKeys()
	return slices.DeleteFunc(keys, func(k SigningKey) bool { return k.Withdrawn || !k.Retired.IsZero() }), err
}

var errNoKey = errors.New("no signing key: Prepare makes them")

// currentKey returns the key that signs: the oldest of those that can.
func currentKey(rd Reader) (SigningKey, error) {
	keys, err := signing(rd)
	if err != nil {
		return SigningKey{}, err
	}
	if len(keys) == 0 {
		return SigningKey{}, errNoKey
	}
	return keys[0], nil
}

// replenish retires the keys of another algorithm and makes as many as are
// missing. It fails where a key cannot be opened, before it changes anything.
func (i *Issuer) replenish(tx Tx) error {
	keys, err := signing(tx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := i.open(k); err != nil {
			return err
		}
	}
	left := 0
	for _, k := range keys {
		if k.Algorithm == string(i.cfg.Algorithm) {
			left++
			continue
		}
		if err := retire(tx, k); err != nil {
			return err
		}
	}
	for ; left < 2; left++ {
		if err := i.makeSigningKey(tx); err != nil {
			return err
		}
	}
	return nil
}

// makeSigningKey makes a key that signs after those that can already.
func (i *Issuer) makeSigningKey(tx Tx) error {
	private, err := jws.Generate(i.cfg.Algorithm)
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	public, err := private.Public().MarshalJSON()
	if err != nil {
		return err
	}
	id := private.Public().ID()
	sealed, err := i.seal(private)
	if err != nil {
		return err
	}
	created, err := nextCreated(tx)
	if err != nil {
		return err
	}
	key := SigningKey{ID: id, Algorithm: string(i.cfg.Algorithm), Public: public, Sealed: sealed, Created: created}
	if err := tx.PutSigningKey(key); err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]string{"kid": id, "alg": key.Algorithm})
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: signingKeyMade.Name, Actor: system.Name, Detail: detail})
}

// nextCreated is now, or later than every key there is, because their order
// says which one signs.
func nextCreated(tx Tx) (time.Time, error) {
	keys, err := tx.SigningKeys()
	created := tx.Now()
	for _, k := range keys {
		if !k.Created.Before(created.Truncate(time.Millisecond)) {
			created = k.Created.Add(time.Millisecond)
		}
	}
	return created, err
}

// signer returns the private half of the key that signs, opened once.
func (i *Issuer) signer(k SigningKey) (*jws.PrivateKey, error) {
	if private := i.current.Load(); private != nil && private.Public().ID() == k.ID {
		return private, nil
	}
	private, err := i.open(k)
	if err == nil {
		i.current.Store(private)
	}
	return private, err
}

// withdraw carries out KeyCompromised: the key signs no more, is published no
// more, and the next takes its place, in one transaction with the revocation.
func (i *Issuer) withdraw(tx Tx, by Actor, t Target, out *Effect) error {
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
	current, err := currentKey(tx)
	if err != nil {
		return err
	}
	t.unused = key.Retired.IsZero() && key.ID != current.ID
	key.Withdrawn, key.Sealed = true, nil
	setDefault(&key.Retired, key.Retired.IsZero(), tx.Now())
	if err := tx.PutSigningKey(key); err != nil {
		return err
	}
	if err := i.replenish(tx); err != nil {
		return err
	}
	return i.apply(tx, KeyCompromised, by, t, out)
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
		l, err := rd.Log()
		if err == nil {
			set, err = publicKeys(rd, l)
		}
		return err
	})
	return set, explain("signing key", err)
}

func publicKeys(rd Reader, l Log) (*jws.KeySet, error) {
	keys, err := rd.SigningKeys()
	if err != nil {
		return nil, err
	}
	return Published(keys, l.MaxLifetime, rd.Now())
}

// Published returns those of the keys that live tokens may be signed with: those
// that sign, and those that stopped no longer ago than a token lives.
func Published(keys []SigningKey, maxLifetime time.Duration, now time.Time) (*jws.KeySet, error) {
	published := struct {
		Keys []json.RawMessage `json:"keys"`
	}{[]json.RawMessage{}}
	for _, k := range keys {
		if !k.Withdrawn && (k.Retired.IsZero() || now.Before(k.Retired.Add(maxLifetime+forgetMargin))) {
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
// which is shown this once. A key for a verifier has ScopeFeed alone. Scopes
// that the actor lacks are CodeForbidden, but for that one.
func (i *Issuer) CreateAPIKey(ctx context.Context, by Actor, name string, scopes []Scope) (APIKey, string, error) {
	k, secret, err := newAPIKey(name, scopes)
	if err != nil {
		return APIKey{}, "", err
	}
	if err := by.gives(scopes); err != nil {
		return APIKey{}, "", err
	}
	_, err = i.store.Update(ctx, func(tx Tx) error { return k.create(tx, by) })
	return k, secret, explain("key", err)
}

// RecoverAPIKey makes a key with every scope of an administrator in a store,
// and returns its secret: for whoever has lost all such keys. A store that no
// server has run on, or that a restore has left unfinished, is CodeConflict: the
// first start on it makes a key.
func RecoverAPIKey(ctx context.Context, store Store, name string) (APIKey, string, error) {
	k, secret, err := newAPIKey(name, AdminScopes)
	if err != nil {
		return APIKey{}, "", err
	}
	_, err = store.Update(ctx, func(tx Tx) error {
		l, err := tx.Log()
		if err != nil {
			return err
		}
		if l.MaxLifetime == 0 {
			return refuse(CodeConflict, "no server has run on this database yet, or a restore into it broke off: start a server on it, or restore again")
		}
		k.LastUsed = tx.Now().Truncate(time.Minute) // or a start would take it for one whose secret nobody was told
		return k.create(tx, Actor{Name: "recovery"})
	})
	return k, secret, explain("key", err)
}

func newAPIKey(name string, scopes []Scope) (k APIKey, secret string, err error) {
	if !printable(name, 1, 64) {
		return k, "", refuse(CodeInvalid, "name: want 1 to 64 characters, none of them a control character")
	}
	if err := checkScopes(scopes); err != nil {
		return k, "", err
	}
	k = APIKey{ID: newID("")[:apiKeyIDSize], Name: name, Scopes: scopes}
	return k, k.newSecret(), nil
}

func (k *APIKey) create(tx Tx, by Actor) error {
	k.Created = tx.Now()
	if err := tx.PutAPIKey(*k); err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: apiKeyCreated.Name, Actor: by.Name, Address: by.Address, Reason: k.Name})
}

func checkScopes(scopes []Scope) error {
	known := append([]Scope{ScopeFeed}, AdminScopes...)
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

// gives refuses scopes that a would give without having them.
func (a Actor) gives(scopes []Scope) error {
	for _, s := range scopes {
		if s != ScopeFeed && !slices.Contains(a.Scopes, s) {
			return refuse(CodeForbidden, "scopes: the key that you use lacks %q, and gives no more than it has; use one that has it", s)
		}
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
// overlap, 0 to 30 days. An actor who lacks one of its scopes, but for
// ScopeFeed, gets CodeForbidden: with the secret come the scopes.
func (i *Issuer) ReplaceAPIKey(ctx context.Context, by Actor, id string, overlap time.Duration) (k APIKey, secret string, err error) {
	if overlap < 0 || overlap > 30*24*time.Hour {
		return k, "", refuse(CodeInvalid, "overlap: want 0 to 30 days, got %v", overlap)
	}
	_, err = i.store.Update(ctx, func(tx Tx) error {
		if k, err = tx.APIKey(id); err != nil {
			return err
		}
		if err := by.gives(k.Scopes); err != nil {
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

// DeleteAPIKey ends a key at once. The last key with ScopeKeys is CodeConflict
// while there are others: nobody could make or delete a key again.
func (i *Issuer) DeleteAPIKey(ctx context.Context, by Actor, id string) error {
	_, err := i.store.Update(ctx, func(tx Tx) error {
		k, err := tx.APIKey(id)
		if err != nil {
			return err
		}
		if err := tx.DeleteAPIKey(id); err != nil {
			return err
		}
		if err := keysRemain(tx); err != nil {
			return err
		}
		return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: apiKeyDeleted.Name, Actor: by.Name, Address: by.Address, Reason: k.Name})
	})
	return explain("key", err)
}

// keysRemain refuses to leave keys behind that none of them can change.
func keysRemain(rd Reader) error {
	keys, err := rd.APIKeys()
	if err != nil || len(keys) == 0 || slices.ContainsFunc(keys, func(k APIKey) bool { return slices.Contains(k.Scopes, ScopeKeys) }) {
		return err
	}
	return refuse(CodeConflict, "this is the last key that can make and delete others; make another with the scope keys first")
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
		k, err = rd.APIKey(id)
		now = rd.Now()
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
		if err := i.noteUse(ctx, id); err != nil {
			i.cfg.Logger.Warn("the use of an API key could not be noted; it was let in all the same", "key", k.Name, "error", err)
		}
	}
	return k, nil
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
