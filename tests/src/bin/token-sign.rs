//! Signs standard input with a key of a PKCS#11 token, whatever it is: an attacker's tool.
//!
//! `token-sign MODULE TOKEN KEY`, with the PIN in the file that `MCPFS_PIN_FILE` names. A
//! process of its own, because a module reads its configuration from the environment. OpenSC's
//! client cannot be used: it signs only up to 1,024 bytes, and picks keys by id, not by label.

use std::io::{Read, Write};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [module, token, key] = args.as_slice() else { return Err("usage: token-sign MODULE TOKEN KEY".into()) };
    let pin = std::fs::read_to_string(std::env::var("MCPFS_PIN_FILE")?)?;
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;

    let module = Pkcs11::new(module)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let mut slots = module.get_slots_with_token()?.into_iter();
    let slot = slots.find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == token));
    let session = module.open_ro_session(slot.ok_or("no such token")?)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.trim().into())))?;
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(key.as_bytes().to_vec())];
    let object = session.find_objects(&wanted)?.first().copied().ok_or("no such key")?;
    let signature = session.sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)), object, &message)?;
    std::io::stdout().write_all(&signature)?;
    Ok(())
}
