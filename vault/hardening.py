"""Process hardening under the name that Django processes use; the work is in ``hsm.hardening``."""

from hsm.hardening import Hardening, HardeningFailed, harden_process

__all__ = ["Hardening", "HardeningFailed", "harden_process"]
