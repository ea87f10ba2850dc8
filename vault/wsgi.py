"""The WSGI application, and the front by which granian serves it."""

import os

from django.core.wsgi import get_wsgi_application

from vault.front import Front
from vault.hardening import harden_process

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")

harden_process()
application = get_wsgi_application()
front = Front(application)
