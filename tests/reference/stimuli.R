# Random effects over stimuli: known errors (metafor; with correlated errors the textbook formula
# and rma.mv), and crossed queries and wordings (lme4, t.test).
# Run from this folder; prints the JSON of stimuli.json.
suppressMessages({library(metafor); library(lme4); library(jsonlite)})

known <- function(d) {
  fit <- rma(yi = d$y, vi = d$v, method = "PM", test = "t", weighted = FALSE,
             control = list(tol = 1e-12, maxiter = 1000))
  ci <- confint(fit, control = list(tol = 1e-12))$random["tau^2", ]
  next_one <- predict(fit)
  list(tau2 = fit$tau2, low = ci[["ci.lb"]], high = ci[["ci.ub"]], q = fit$QE, p = fit$QEp,
       mean = as.numeric(fit$beta), se = fit$se, pi = c(next_one$pi.lb, next_one$pi.ub))
}

# Q from the whole precision matrix, its expectation and quantiles by root finding.
correlated <- function(d) {
  k <- nrow(d)
  V <- outer(sqrt(d$v), sqrt(d$v)) * 0.6^abs(outer(1:k, 1:k, "-"))
  q <- function(t2) {
    S <- solve(V + t2 * diag(k))
    P <- S - S %*% matrix(1, k, k) %*% S / sum(S)
    as.numeric(t(d$y) %*% P %*% d$y)
  }
  at <- function(target) if (q(0) <= target) 0 else
    uniroot(function(t2) q(t2) - target, c(0, 10), tol = 1e-14)$root
  list(q = q(0), tau2 = at(k - 1), low = at(qchisq(.975, k - 1)), high = at(qchisq(.025, k - 1)))
}

# With equal errors and one shared part every estimator of tau^2 is the same.
shared <- function(d) {
  k <- nrow(d)
  fit <- rma.mv(d$y, V = diag(0.001, k) + 0.002, random = ~ 1 | id, data = data.frame(id = 1:k))
  list(tau2 = fit$sigma2, mean = as.numeric(fit$beta), se = fit$se)
}

crossed <- function(d) {
  fit <- lmer(d ~ 1 + (1 | query) + (1 | wording), d,
              control = lmerControl(optCtrl = list(rhobeg = .01, rhoend = 1e-12, maxfun = 1e5)))
  v <- as.data.frame(VarCorr(fit))
  of_wording <- tapply(d$d, d$wording, mean)
  by_means <- t.test(of_wording)
  each <- lapply(split(d$d, d$wording), function(x) {
    one <- t.test(x)
    list(estimate = one$estimate[[1]], se = one$stderr, low = one$conf.int[1],
         high = one$conf.int[2])
  })
  list(wording = v$vcov[v$grp == "wording"], query = v$vcov[v$grp == "query"],
       rest = v$vcov[v$grp == "Residual"], mean = fixef(fit)[[1]],
       se = sqrt(as.matrix(vcov(fit))[1, 1]), n_queries = length(unique(d$query)),
       by_means = list(estimate = by_means$estimate[[1]], se = by_means$stderr,
                       df = by_means$parameter[[1]], p = by_means$p.value,
                       low = by_means$conf.int[1], high = by_means$conf.int[2]),
       each = each)
}
gaps <- function(d) {
  cells <- aggregate(y ~ query + wording + arm, d, mean)
  both <- merge(cells[cells$arm == "train", ], cells[cells$arm == "deploy", ],
                by = c("query", "wording"))
  data.frame(query = both$query, wording = both$wording, d = both$y.x - both$y.y)
}
trials <- read.csv("data/wordings.csv")
before <- gaps(trials[trials$a == "original", ])
after <- gaps(trials[trials$a == "removed", ])
change <- merge(before, after, by = c("query", "wording"))
change$d <- change$d.y - change$d.x

effects <- read.csv("data/effects.csv")
sets <- split(effects, effects$set)
found <- list(
  versions = list(R = paste(R.version$major, R.version$minor, sep = "."),
                  metafor = as.character(packageVersion("metafor")),
                  lme4 = as.character(packageVersion("lme4"))),
  known = lapply(sets, known), correlated = lapply(sets, correlated),
  shared = lapply(sets, shared), gap = crossed(before), effect = crossed(change))
cat(toJSON(found, digits = 12, auto_unbox = TRUE, pretty = TRUE), "\n")
