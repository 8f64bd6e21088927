from django.urls import path

from .views import github

urlpatterns = [path("hooks/github", github)]
